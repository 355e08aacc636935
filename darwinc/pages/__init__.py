"""What a person reads of a report: sentences, Markdown, HTML, pictures.

texts                figures and sentences that all pages share
questions            what pages ask of a report
markdown, html       the pages (`report.md.jinja`, `report.html.jinja`)
evolution            the section on generations (`evolution_questions`, `evolution_tables`)
plots                pictures of channels, causes, training, latency, the bound
family_plots         pictures of a family: its tree, widths over generations
quality_plots        pictures of quality: by generation, against cost
drawing              a figure as SVG for the page
"""
