"""Glossary: the page's words, a line each.

The page shows a line where it uses the word, and all of them at its foot.
"""

GLOSSARY = {
    "reading": "A value of the data, with its cursor and the time at which it changed.",
    "cursor": "The name of a reading. A browser sends its last one, so that nothing is lost.",
    "update": "The number of the reading, from 1: the end of its cursor.",
    "transport": "How a browser learns that the data has changed: four, with a lane each.",
    "signal": "A message that only says: something changed. The browser then fetches the reading.",
    "carry": "The message brings the reading itself, so that nothing has to be fetched.",
    "held": "The server keeps a request and responds only when the data changes.",
    "empty": "A response that says: nothing new.",
    "p50": "The median: half of the updates were on the screen sooner than this, half later.",
    "p95": "Of a hundred updates, ninety-five were on the screen sooner than this.",
    "skipped": "Readings that a newer one replaced before this browser could have them. The field's"
    " word is coalesced.",
    "lost": "Readings that should have been shown, and were not. Must be 0.",
}
