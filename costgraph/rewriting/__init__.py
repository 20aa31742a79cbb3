"""How passes run: pipelines as text, rules, drafts of graphs, traces."""
