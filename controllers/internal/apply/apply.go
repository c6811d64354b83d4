// Package apply brings objects to what they should be by server-side apply, and makes no call where they already are. Of
// finalizers, which others have in the same list, it takes care by patches.
package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Applier applies objects as one field manager.
type Applier struct {
	Client client.Client
	// Owner is the field manager.
	Owner string
}

// Apply brings the live object, nil when there is none, to what is desired, and reports whether a call was needed. What
// other field managers added stays; what they changed of ours is set back, and what is no longer desired is taken
// away. desired carries its apiVersion and kind.
func (a Applier) Apply(ctx context.Context, live, desired client.Object) (bool, error) {
	intent, err := intent(desired)
	if err != nil {
		return false, err
	}
	if live != nil {
		same, err := a.holds(live, intent)
		if err != nil || same {
			return false, err
		}
	}
	err = a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(intent), client.FieldOwner(a.Owner), client.ForceOwnership)
	if err != nil {
		return false, fmt.Errorf("applying %s %s/%s: %w", intent.GetKind(), intent.GetNamespace(), intent.GetName(), err)
	}
	return true, nil
}

// Holds reports whether applying desired would change nothing: the live object has every desired value, and this field
// manager owns exactly the desired fields. Ownership tells what values cannot: a field that somebody else changed is no
// longer ours, and a field that is no longer desired still is.
func (a Applier) Holds(live, desired client.Object) (bool, error) {
	intent, err := intent(desired)
	if err != nil {
		return false, err
	}
	return a.holds(live, intent)
}

func (a Applier) holds(live client.Object, intent *unstructured.Unstructured) (bool, error) {
	have, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return false, fmt.Errorf("reading the live %s: %w", intent.GetKind(), err)
	}
	for _, entry := range live.GetManagedFields() {
		if entry.Manager != a.Owner || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var owned map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &owned); err != nil {
			return false, fmt.Errorf("reading the managed fields of the live %s: %w", intent.GetKind(), err)
		}
		want := runtime.DeepCopyJSON(intent.Object)
		// These say which object is meant; nobody owns them.
		for _, key := range []string{"apiVersion", "kind"} {
			delete(want, key)
		}
		for _, key := range []string{"name", "namespace"} {
			unstructured.RemoveNestedField(want, "metadata", key)
		}
		if metadata, _ := want["metadata"].(map[string]any); len(metadata) == 0 {
			delete(want, "metadata")
		}
		return match(owned, have, want), nil
	}
	return false, nil
}

// intent is the object without what the API server alone says, and without empty marks that encoding leaves.
func intent(desired client.Object) (*unstructured.Unstructured, error) {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(desired)
	if err != nil {
		return nil, fmt.Errorf("encoding the desired %s: %w", desired.GetObjectKind().GroupVersionKind().Kind, err)
	}
	delete(object, "status")
	removeNulls(object)
	return &unstructured.Unstructured{Object: object}, nil
}

func removeNulls(value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, item := range v {
			if item == nil {
				delete(v, key)
				continue
			}
			removeNulls(item)
		}
	case []any:
		for _, item := range v {
			removeNulls(item)
		}
	}
}

// match walks the tree of owned fields (the FieldsV1 format of managedFields: "f:" a field, "k:" a list item by its
// keys, "v:" an item of a set, "." the thing itself, no children: the whole value) together with the live and the
// desired values.
func match(owned map[string]any, live, want any) bool {
	if len(owned) == 0 {
		return covers(live, want)
	}
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		return ok && matchFields(owned, l, w)
	case []any:
		l, ok := live.([]any)
		return ok && matchItems(owned, l, w)
	}
	return false
}

func matchFields(owned, live, want map[string]any) bool {
	for key, value := range want {
		child, ok := owned["f:"+key].(map[string]any)
		if !ok || !match(child, live[key], value) {
			return false
		}
	}
	for name := range owned {
		if key, ok := strings.CutPrefix(name, "f:"); ok {
			if _, wanted := want[key]; !wanted {
				return false
			}
		}
	}
	return true
}

func matchItems(owned map[string]any, live, want []any) bool {
	items := 0
	for name, child := range owned {
		if name == "." {
			continue
		}
		items++
		node, _ := child.(map[string]any)
		if text, ok := strings.CutPrefix(name, "v:"); ok {
			var value any
			if json.Unmarshal([]byte(text), &value) != nil || !contains(want, value) || !contains(live, value) {
				return false
			}
			continue
		}
		text, ok := strings.CutPrefix(name, "k:")
		var keys map[string]any
		if !ok || json.Unmarshal([]byte(text), &keys) != nil {
			return false
		}
		wanted, found := withKeys(want, keys, true), withKeys(live, keys, false)
		if wanted == nil || found == nil || !match(withoutKeys(node, keys, wanted), found, wanted) {
			return false
		}
	}
	return items == len(want)
}

// withoutKeys takes the item's keys that are not spelt out from the owned fields: the API server fills in their defaults.
func withoutKeys(owned, keys, item map[string]any) map[string]any {
	out := map[string]any{}
	for name, child := range owned {
		key, _ := strings.CutPrefix(name, "f:")
		_, isKey := keys[key]
		if _, spelt := item[key]; !isKey || spelt {
			out[name] = child
		}
	}
	return out
}

// withKeys finds the item with the keys. An item of the desired list may leave out a key that has a default.
func withKeys(items []any, keys map[string]any, partial bool) map[string]any {
	for _, item := range items {
		m, ok := item.(map[string]any)
		fits := ok
		for key, value := range keys {
			have, there := m[key]
			fits = fits && ((partial && !there) || equal(have, value))
		}
		if fits {
			return m
		}
	}
	return nil
}

func contains(items []any, value any) bool {
	for _, item := range items {
		if equal(item, value) {
			return true
		}
	}
	return false
}

// covers says whether live has every value of want. Lists are compared item by item; maps may have more, because the
// API server fills in defaults.
func covers(live, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return len(w) == 0 && live == nil
		}
		for key, value := range w {
			if !covers(l[key], value) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(w) {
			return len(w) == 0 && live == nil
		}
		for i := range w {
			if !covers(l[i], w[i]) {
				return false
			}
		}
		return true
	}
	return equal(live, want)
}

// equal compares scalars; JSON decodes a number as int64 or float64, depending on the decoder.
func equal(a, b any) bool {
	return equality.Semantic.DeepEqual(number(a), number(b))
}

func number(v any) any {
	switch n := v.(type) {
	case int64:
		return float64(n)
	case int32:
		return float64(n)
	}
	return v
}
