"""kinn.train"""
