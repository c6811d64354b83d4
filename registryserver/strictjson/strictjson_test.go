package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
)

var bounds = strictjson.Bounds{Depth: 3, Members: 4}

func TestDecode(t *testing.T) {
	got, err := strictjson.Decode([]byte(` {"a":[1,2.50,"x",null],"b":{"c":{"d":true}},"e":{},"A":[]} `), bounds)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": []any{json.Number("1"), json.Number("2.50"), "x", nil},
		"b": map[string]any{"c": map[string]any{"d": true}},
		"e": map[string]any{}, "A": []any{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, why := range map[string]string{
		``:                                "not JSON",
		`{`:                               "not JSON",
		`{} {}`:                           "not JSON",
		`{"a":1,}`:                        "not JSON",
		`{"a":NaN}`:                       "not JSON",
		"\"\xff\"":                        "UTF-8",
		`{"a":1,"a":1}`:                   "twice",
		`{"a":1,"\u0061":2}`:              "twice",
		`[{"x":{"a":1,"b":2,"a":3}}]`:     "twice",
		`[[[[]]]]`:                        "deep",
		`{"a":{"b":{"c":{}}}}`:            "deep",
		`[1,2,3,4,5]`:                     "list with more",
		`{"a":1,"b":1,"c":1,"d":1,"e":1}`: "object with more",
	} {
		if _, err := strictjson.Decode([]byte(text), bounds); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want something with %q", text, err, why)
		}
	}
}

// FuzzDecode: whatever is taken, encoding/json takes too, and sees the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":[1,"x",null,{"b":false}]}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := strictjson.Decode(data, strictjson.Bounds{Depth: 8, Members: 64})
		if err != nil {
			return
		}
		var want any
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.UseNumber()
		if err := decoder.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
