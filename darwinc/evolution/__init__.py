"""Generations of networks: which clusters and synapses live in each, who descends from whom, and who raises them.

What lives, and what it costs
    genome        which channels (clusters) and weights (synapses) of the ancestor live in a network
    wiring        single synapses: which weights may lose some, and whom nobody reads any more
    positions     weights between a network's file and the ancestor's positions
    appraisal     what a raised network says of its channels and weights: strengths, and what outputs owe to them
    resources     what networks cost, resource by resource
    pareto        networks that no other one beats in everything
From parents to offspring
    mating        who mates with whom, and what their strengths are together
    inheritance   what an offspring is drawn from
    environment   what may be kept in a generation
    heredity      from strengths and a draw to who lives
    repair        widths that every limit allows, near those that were drawn
    synapses      which single synapses live
    synthesis     a generation's offspring from its parents
A run
    tasks         what a driver hands to workers, and what comes back
    crew          who raises offspring: this process, processes beside it (`processes`), or machines (`ray_crew`)
    lineage       the folder of a run: a journal (`journal`), and a folder for each network (`keeping`)
    generations   the life of a population: synthesised, raised, judged, survived
    run           from a job to the winner
    telling       the report of a run that has not ended
"""
