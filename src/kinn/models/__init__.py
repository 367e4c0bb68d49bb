"""kinn.models"""
