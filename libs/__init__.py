"""What two or more services need, one module per idea."""
