"""Generations of networks: which clusters and synapses live in each, who descends from whom, and who raises them.

genome        which channels (clusters) and weights (synapses) of the ancestor live in a network
appraisal     what a raised network says of its channels and weights: strengths, and what outputs owe to them
heredity      from strengths and a draw to who lives, within the limits of an environment
mating        who mates with whom, and what their strengths are together
environment   what may be kept in a generation
synthesis     a generation's offspring from its parents
lineage       the folder of a run: a journal (`journal`), and a folder for each network (`keeping`: written whole)
crew          who raises offspring: this process, `processes` beside it, or machines (`ray_crew`)
generations   the life of a population: synthesised, raised, judged, survived
"""
