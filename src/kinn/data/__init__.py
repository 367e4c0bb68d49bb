"""kinn.data"""
