package repository_test

import (
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

func TestVerifyOfReferrers(t *testing.T) {
	b := newBucket(t)
	s := openStore(t, b, repository.Options{Sparse: func(repository.Manifest) bool { return true }})
	r := openRepository(t, s, "a")
	subject := digest.SHA512.FromString("subject")
	content := signature(t, subject, object{"layers": []object{describe("text/plain", "never pushed")}})
	m := putSignature(t, r, content)
	if problems, summary := verify(t, s, repository.VerifyOptions{}); problems != nil || summary.Harmless != 0 {
		t.Fatalf("%v %+v", problems, summary)
	}
	key := "charts/a/referrers/sha512-" + subject.Encoded() + "/sha256-" + m.Digest.Encoded()
	for _, damage := range []func(){
		func() { ok(t, b.Delete(t.Context(), key, bucket.Condition{})) },
		func() { putObject(t, b, key, "") },
		func() { putObject(t, b, key, strings.Repeat(" ", 5<<20)) },
	} {
		damage()
		for _, repair := range []bool{false, true} {
			problems, summary := verify(t, s, repository.VerifyOptions{Repair: repair})
			if len(problems) != 1 || !strings.HasPrefix(problems[0], key+": the list of the referrers of "+subject.String()) || (summary.Repaired == 1) != repair {
				t.Fatalf("repair %v: %v %+v", repair, problems, summary)
			}
		}
		if problems, _ := verify(t, s, repository.VerifyOptions{}); problems != nil {
			t.Fatalf("after the repair: %v", problems)
		}
		wantReferrers(t, r, subject, m)
	}
	ok(t, b.Delete(t.Context(), manifestKey("a", m.Digest), bucket.Condition{}))
	if problems, summary := verify(t, s, repository.VerifyOptions{}); problems != nil || summary.Harmless != 1 {
		t.Fatalf("an entry alone: %v %+v", problems, summary)
	}
	putObject(t, b, "charts/a/referrers/x/y", "x")
	if problems, _ := verify(t, s, repository.VerifyOptions{}); len(problems) != 1 {
		t.Fatalf("a foreign object: %v", problems)
	}
}
