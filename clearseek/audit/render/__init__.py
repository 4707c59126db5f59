"""An audit for its readers: a terminal, Markdown, a page, and the formats that programs read."""
