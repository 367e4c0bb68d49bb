"""kinn.nn"""
