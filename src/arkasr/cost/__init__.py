"""An estimate of the time and memory that a recipe needs on a cluster: counted work divided by what devices can do."""
