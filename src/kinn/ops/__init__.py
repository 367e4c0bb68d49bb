"""kinn.ops"""
