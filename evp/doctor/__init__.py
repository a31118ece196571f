"""What is wrong with a deployment: a table of checks, each with its mend."""
