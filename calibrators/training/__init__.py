"""Training the twin: what it is told (`objectives`), what it sees (`feeding`), and the loop (`trainer`).

`teaching.teach` is where the passes `distill` and `finetune` come in.
"""
