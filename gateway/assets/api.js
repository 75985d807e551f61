// The description of the API, for people.

import { el } from "./elements.js";

const shortName = (reference) => reference.split("/").at(-1);

function typeOf(schema) {
  if (!schema) return "nothing";
  if (schema.$ref) return el("a", { href: `#schema-${shortName(schema.$ref)}` }, shortName(schema.$ref));
  if (schema.oneOf || schema.anyOf) return el("span", {}, (schema.oneOf ?? schema.anyOf).flatMap((one, index) => (index ? [" or ", typeOf(one)] : [typeOf(one)])));
  const type = [schema.type].flat().join(" or ");
  if (schema.items) return el("span", {}, "list of ", typeOf(schema.items));
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  return schema.format ? `${type} (${schema.format})` : type || "anything";
}

function properties(schema) {
  if (schema.oneOf) return el("ul", {}, schema.oneOf.map((one) => el("li", {}, one.description ?? "", properties(one))));
  if (schema.allOf) return el("div", {}, schema.allOf.map(properties));
  if (!schema.properties) return el("p", {}, typeOf(schema));
  const required = new Set(schema.required ?? []);
  return el("ul", {}, Object.entries(schema.properties).map(([name, property]) => el("li", {},
    el("code", {}, name), ": ", typeOf(property), required.has(name) ? "" : ", optional", property.description ? `. ${property.description}` : "")));
}

function parameters(operation) {
  if (!operation.parameters?.length) return null;
  return el("div", {}, el("h3", {}, "Parameters"), el("ul", {}, operation.parameters.map((one) => el("li", {},
    el("code", {}, one.name), ` (${one.in}${one.required ? "" : ", optional"}): `, typeOf(one.schema), one.description ? `. ${one.description}` : ""))));
}

function contents(content) {
  return Object.entries(content ?? {}).flatMap(([kind, { schema }]) => [` ${kind}: `, typeOf(schema)]);
}

function operationOf(path, method, operation) {
  return el("details", { class: "operation" },
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), ` ${operation.summary ?? ""}`),
    operation.description ? el("p", {}, operation.description) : null,
    parameters(operation),
    operation.requestBody ? el("div", {}, el("h3", {}, "Body"), el("p", {}, contents(operation.requestBody.content))) : null,
    el("h3", {}, "Answers"),
    el("ul", {}, Object.entries(operation.responses).map(([status, response]) => el("li", {}, el("code", {}, status), ` ${response.description}.`, contents(response.content)))));
}

const document_ = await (await fetch("/api/v1/openapi.json")).json();
const operations = Object.entries(document_.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => operationOf(path, method, operation)));
const schemas = Object.entries(document_.components.schemas).map(([name, schema]) =>
  el("section", { id: `schema-${name}` }, el("h3", {}, name), schema.description ? el("p", {}, schema.description) : null, properties(schema)));
document.getElementById("operations").replaceChildren(
  el("p", {}, document_.info.description), el("h2", {}, "Operations"), ...operations, el("h2", {}, "Documents"), ...schemas);
