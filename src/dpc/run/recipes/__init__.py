"""Recipes: everything that a run is made from, in one YAML file; those of the paper's tables stand in ``paper/``."""

from dpc.run.recipes.recipe import Draft, Recipe, draft_recipe, shipped_recipes

__all__ = ["Draft", "Recipe", "draft_recipe", "shipped_recipes"]
