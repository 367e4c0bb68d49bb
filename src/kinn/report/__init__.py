"""kinn.report"""
