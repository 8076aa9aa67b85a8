"""From a query to matches: search, ranking, re-ranking (`rerank`) and better boxes (`localize`)."""
