"""The edge: reads the environment, builds clients, prints, exits."""
