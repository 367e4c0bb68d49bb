"""kinn.recipes"""
