"""kinn.pde"""
