package caddymodule

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// maxSettings is the most items of a list in settings.
const maxSettings = 10_000

// decodeStruct reads a JSON object into a struct by the names that encoding/json would
// take, as strictly as [decodeObject] does.
func decodeStruct(raw []byte, path string, v any) error {
	return decodeObject(raw, path, fieldsOf(reflect.ValueOf(v).Elem()), func(path, _ string, _ json.RawMessage) error {
		return invalid(path, "unsupported", "there is no such setting")
	})
}

// fieldsOf are the members of a struct. Those of embedded structs give way.
func fieldsOf(v reflect.Value) fields {
	own, embedded := make(fields), make(fields)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(embedded, fieldsOf(v.Field(i)))
		case f.IsExported() && name != "" && name != "-":
			own[name] = decodeValue(v.Field(i))
		}
	}
	maps.Copy(embedded, own)
	return embedded
}

// decodeValue reads a member into a field.
func decodeValue(v reflect.Value) decoder {
	_, itself := reflect.TypeAssert[json.Unmarshaler](v.Addr())
	switch {
	case itself:
	case v.Kind() == reflect.Struct:
		return func(path string, raw json.RawMessage) error { return decodeStruct(raw, path, v.Addr().Interface()) }
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		return func(path string, raw json.RawMessage) error {
			return decodeList(raw, path, maxSettings, func(path string, raw json.RawMessage) error {
				item := reflect.New(v.Type().Elem())
				if err := decodeStruct(raw, path, item.Interface()); err != nil {
					return err
				}
				v.Set(reflect.Append(v, item.Elem()))
				return nil
			})
		}
	}
	return func(path string, raw json.RawMessage) error {
		if json.Unmarshal(raw, v.Addr().Interface()) != nil { // its error might show a secret
			return badJSON(path, "must be "+kindNames[v.Kind()])
		}
		return nil
	}
}

// kindNames are kinds of values in words.
var kindNames = map[reflect.Kind]string{
	reflect.String: "a string", reflect.Bool: "true or false", reflect.Slice: "a list of strings",
	reflect.Map: "an object with strings", reflect.Int: "a number", reflect.Float64: "a number",
	reflect.Int64: `a time such as "15m"`,
}

// mergePatch changes a JSON object as RFC 7396 says. Both must be objects.
func mergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	var to, from map[string]json.RawMessage
	if err := json.Unmarshal(patch, &from); err != nil {
		return nil, badJSON("", "must be an object")
	}
	if json.Unmarshal(target, &to) != nil || to == nil {
		to = make(map[string]json.RawMessage)
	}
	for name, value := range from {
		switch {
		case string(value) == "null":
			delete(to, name)
		case value[0] == '{':
			merged, err := mergePatch(to[name], value)
			if err != nil {
				return nil, err
			}
			to[name] = merged
		default:
			to[name] = value
		}
	}
	return json.Marshal(to)
}
