"""What is checked: a folder a suite, with its tests, its cases as data, and what it adds to its page."""
