"""Alembic's entry: runs the migrations on the connection that `Database.migrate` hands over."""

from alembic import context

from raymill.registry.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
