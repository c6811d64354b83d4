package events_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Whatever is found in the bucket, what is pushed is told.
func FuzzStored(f *testing.F) {
	for _, seed := range []string{
		`{"event":{"id":"0000000000000001-aaaaaaaaaa","type":"package.created","chart":"web","tag":"1.0.0"}}`, `{"certain":true}`, `{}`, `[]`, `{"event":{"chart":"../../x","id":"../y","type":"package.deleted"},"certain":true}`,
		`{"event":{"id":"a/b","type":"ping"},"to":"hook","certain":true}`, `{"since":"2026-01-01T00:00:00Z","asked":true}`, `{"state":{"deliveries":[{}],"pending":-1},"goneAs":"x"}`, "\xff", "null",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l := listen(t, nil)
		b := newBucket(t)
		for _, key := range []string{
			"events/outbox/web/0000000000000001-aaaaaaaaaa", "events/outbox/-/0000000000000001-aaaaaaaaaa.0000000000000001-aaaaaaaaab", "events/queue/hook/web/0000000000000001-aaaaaaaaaa",
			"events/receivers/hook.json", "events/dead/hook/0000000000000001-aaaaaaaaaa",
		} {
			if _, err := b.Put(t.Context(), key, bytes.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		r := newReplica(t, b, nil, told("hook", l)).run()
		defer r.stop()
		r.push("other", "1.0.0", "x")
		eventually(t, "it is told", func() bool { return slices.Contains(l.lines(), "package.created other:1.0.0") })
		r.state("hook")
		if _, err := r.DeadLetters(t.Context(), "hook", 10); err != nil {
			t.Error(err)
		}
		for _, key := range keys(t, b, "events/") {
			if bucket.CheckKey(key) != nil {
				t.Errorf("there is %q", key)
			}
		}
	})
}
