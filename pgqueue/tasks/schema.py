"""The JSON schema of a task's arguments."""

from typing import Any

from pydantic import TypeAdapter


def json_schema(adapter: TypeAdapter[dict[str, Any]], title: str, about: str | None) -> dict[str, Any]:
    """Return the JSON schema of a task's arguments. A type that JSON schema cannot describe allows anything."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue  # heavy, and needed for this function only

    class Lenient(GenerateJsonSchema):
        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
            return {}

    shape = adapter.json_schema(by_alias=False, schema_generator=Lenient) | {"title": title}
    return {"$schema": GenerateJsonSchema.schema_dialect} | shape | ({"description": about} if about else {})
