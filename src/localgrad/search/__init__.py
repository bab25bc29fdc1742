"""Find a decoupling for a network, and carry it over to others."""
