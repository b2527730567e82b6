"""What happens when a recipe is run: stages in order, resumed, evaluated and reported."""
