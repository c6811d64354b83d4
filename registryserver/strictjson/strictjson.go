// Package strictjson reads JSON that strangers wrote into plain values, within bounds, and refuses what two readers could
// understand in two ways.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Bounds are what a document may have at most.
type Bounds struct {
	// Depth is how deep lists and objects are nested; a list of strings has depth 1.
	Depth int
	// Members is how many members one list or object has.
	Members int
}

// Decode reads one JSON value: map[string]any, []any, string, json.Number, bool or nil. Errors: no JSON, bytes that are no
// UTF-8, an object with the same name twice, and what is beyond the bounds. They quote no value.
func Decode(data []byte, b Bounds) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	// The decoder below takes values one by one, and would not see what follows the last.
	if !json.Valid(data) {
		return nil, errors.New("it is not JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return b.value(decoder, 0)
}

func (b Bounds) value(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	opening, compound := token.(json.Delim)
	if !compound {
		return token, nil
	}
	if depth >= b.Depth {
		return nil, fmt.Errorf("it is nested more than %d deep", b.Depth)
	}
	if opening == '{' {
		return b.object(decoder, depth)
	}
	list := []any{}
	for decoder.More() {
		value, err := b.value(decoder, depth+1)
		if err != nil {
			return nil, err
		}
		if list = append(list, value); len(list) > b.Members {
			return nil, fmt.Errorf("it has a list with more than %d members", b.Members)
		}
	}
	_, err = decoder.Token()
	return list, err
}

func (b Bounds) object(decoder *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name := token.(string) // The decoder lets nothing else be a name.
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("it has the name %.60q twice in one object", name)
		}
		if object[name], err = b.value(decoder, depth+1); err != nil {
			return nil, err
		}
		if len(object) > b.Members {
			return nil, fmt.Errorf("it has an object with more than %d members", b.Members)
		}
	}
	_, err := decoder.Token()
	return object, err
}
