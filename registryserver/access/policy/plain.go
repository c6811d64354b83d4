package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
)

// bounds are above what a policy can have, so that its own bounds are told in its own words.
var bounds = strictjson.Bounds{Depth: 10, Members: 256}

// plain reads JSON or plain YAML into values as encoding/json makes them with UseNumber. what it is appears in errors.
func plain(what string, text []byte) (any, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the %s has %d bytes; at most %d are allowed", what, len(text), MaxBytes)
	}
	// Nearly all JSON is YAML, but not all of it.
	if json.Valid(text) {
		value, err := strictjson.Decode(text, bounds)
		if err != nil {
			return nil, fmt.Errorf("reading the %s: %w", what, err)
		}
		return value, nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the %s is empty", what)
	} else if err != nil {
		return nil, fmt.Errorf("reading the %s as YAML: %w", what, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the %s holds more than one YAML document: leave out the line ---, and what belongs to another", what)
	}
	value, err := plainNode(document.Content[0], 0)
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	return value, nil
}

func plainNode(n *yaml.Node, depth int) (any, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
	}
	switch {
	case n.Kind == yaml.AliasNode:
		return nil, refuse("it has the alias *%s: write out what it stands for", clip(n.Value))
	case n.Anchor != "":
		return nil, refuse("it has the anchor &%s: leave it out", clip(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		return nil, refuse("it has the tag %s: leave it out; a value in quotes is a string", clip(n.Tag))
	case depth > bounds.Depth:
		return nil, refuse("it is nested more than %d deep", bounds.Depth)
	case len(n.Content) > 2*bounds.Members:
		return nil, refuse("it has more than %d members", bounds.Members)
	}
	switch n.Kind {
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, element := range n.Content {
			value, err := plainNode(element, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case yaml.MappingNode:
		return plainMap(n, depth)
	}
	return plainScalar(n)
}

func plainMap(n *yaml.Node, depth int) (any, error) {
	object := make(map[string]any, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key, err := plainNode(n.Content[i], depth+1)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("line %d: a key must be a string, and this is %s: put it in quotes", n.Content[i].Line, kindOf(key))
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("line %d: the key %s is there twice", n.Content[i].Line, quote(name))
		}
		if object[name], err = plainNode(n.Content[i+1], depth+1); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func plainScalar(n *yaml.Node) (any, error) {
	tag := n.ShortTag()
	if tag == "!!str" && n.Style == 0 && json.Valid([]byte(n.Value)) {
		tag = "!!float" // One that is too large for YAML's reader, which it would take for a string.
	}
	switch tag {
	case "!!str", "!!timestamp": // JSON has no times, and so no claim is one.
		return n.Value, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!null":
		if n.Value == "" {
			return nil, fmt.Errorf("line %d: there is nothing behind the colon or dash: write a value, or null if that is meant", n.Line)
		}
		return nil, nil //nolint:nilnil // It is null.
	case "!!int", "!!float":
		if _, ok := canonicalNumber(n.Value); ok && json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil
		}
		return nil, fmt.Errorf("line %d: %s is not a number as JSON has them: write it in decimal digits, or in quotes if it is a string", n.Line, quote(n.Value))
	}
	return nil, fmt.Errorf("line %d: %s cannot be in a policy", n.Line, quote(n.Value))
}
