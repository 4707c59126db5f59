"""Problems with answers that a program can check: generators, prompts, strict rewards, and a cell for code."""
