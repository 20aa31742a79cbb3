"""The explorer: the parts of a report with model, machines and passes to choose.

Its page asks for what it shows as *parts* (:mod:`costgraph.showing.explorer.parts`): small
scripts that hand over data and printed JavaScript. A server derives them when they are asked
for (:mod:`~costgraph.showing.explorer.server`); a static site holds them as files
(:mod:`~costgraph.showing.explorer.site`). The page is the same.
"""
