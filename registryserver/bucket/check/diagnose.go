package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Outcomes of a check.
const (
	// OK: the storage can do it.
	OK = "ok"
	// Failed: it cannot, or not now.
	Failed = "failed"
	// NotApplicable: storage of this kind has no such thing, and a registry in it does not need it.
	NotApplicable = "not applicable"
)

// Result is what became of one check.
type Result struct {
	// Name of the check: put, get, list, conditional put, conditional delete, tag, presign or delete.
	Name string `json:"name"`
	// Outcome is one of the above.
	Outcome string `json:"outcome"`
	// Error is why it failed, in one sentence.
	Error string `json:"error,omitempty"`
	// Hint says what to do about a failure, or why a check does not apply.
	Hint string `json:"hint,omitempty"`
}

// Tagger is a bucket.Bucket whose objects can carry tags, by which lifecycle rules and cost reports choose them.
type Tagger interface {
	// SetTags gives an object these tags in place of those it has.
	SetTags(ctx context.Context, key string, tags map[string]string) error
	// Tags returns an object's tags.
	Tags(ctx context.Context, key string) (map[string]string, error)
}

// fetcher is a bucket.Presigner that knows how to reach its own server.
type fetcher interface{ Client() *http.Client }

// content is what the objects of a diagnosis hold.
const content = "chartroom storage check"

var (
	errContent  = errors.New("other content came back than was written")
	errUnlisted = errors.New("the listing does not have an object that was written")
	errNotTried = errors.New("it was not tried, because nothing can be written")
)

// Diagnose tries every operation, and calls report with what became of each as soon as it is known, in an order that is
// always the same. What needs something that was written is not tried where nothing can be. It leaves nothing behind.
func Diagnose(ctx context.Context, b bucket.Bucket, report func(Result)) {
	d := &diagnosis{b: b, key: newKey("diagnose")}
	defer clean(ctx, b, d.key)
	d.tagger, _ = b.(Tagger)
	d.presigner, _ = b.(bucket.Presigner)
	written := false
	for _, c := range []struct {
		name, hint string
		applies    bool
		run        func(context.Context) error
	}{
		{"put", "the registry needs to write: on S3 the permission s3:PutObject; in a directory, room and write permission", true, d.put},
		{"get", "the registry needs to read: on S3 the permission s3:GetObject", true, d.get},
		{"list", "the registry needs to list: on S3 the permission s3:ListBucket of the bucket itself", true, d.list},
		{"conditional put", "the storage does not decide between writers, so that only one server may use it; use storage with If-None-Match and If-Match", true, d.conditionalPut},
		{"conditional delete", "the storage deletes whatever version there is, so that only one server may use it; use storage with If-Match for DeleteObject", true, d.conditionalDelete},
		{"tag", "the registry does not tag objects itself; lifecycle rules by tag need s3:PutObjectTagging and s3:GetObjectTagging", d.tagger != nil, d.tag},
		{"presign", "only a redirect of downloads needs it (storage.s3.redirect)", d.presigner != nil, d.presign},
		{"delete", "the registry needs to delete: on S3 the permission s3:DeleteObject", true, d.delete},
	} {
		r := Result{Name: c.name, Outcome: OK}
		if !c.applies {
			r.Outcome, r.Hint = NotApplicable, "only S3 has it"
			report(r)
			continue
		}
		err := ctx.Err()
		if err == nil && c.name != "put" && !written {
			err = errNotTried
		}
		if err == nil {
			err = c.run(ctx)
		}
		written = written || err == nil
		switch {
		case errors.Is(err, errNotTried):
			r.Outcome, r.Error, r.Hint = Failed, err.Error(), "mend that first, and check again"
		case errors.Is(err, bucket.ErrUnavailable):
			r.Outcome, r.Error, r.Hint = Failed, err.Error(), "it could not be tried: mend what the error says, and check again"
		case err != nil:
			r.Outcome, r.Error, r.Hint = Failed, err.Error(), c.hint
		}
		report(r)
	}
}

// diagnosis is one run, whose checks share an object.
type diagnosis struct {
	b bucket.Bucket
	// tagger and presigner are nil where b is none.
	tagger    Tagger
	presigner bucket.Presigner
	key       string
}

func (d *diagnosis) put(ctx context.Context) error {
	_, err := put(ctx, d.b, d.key, content, bucket.Condition{})
	return err
}

func (d *diagnosis) get(ctx context.Context) error {
	got, err := get(ctx, d.b, d.key)
	if err == nil && got != content {
		err = errContent
	}
	return err
}

func (d *diagnosis) list(ctx context.Context) error {
	p, err := d.b.List(ctx, bucket.ListOptions{Prefix: d.key})
	if err == nil && len(p.Objects) != 1 {
		err = errUnlisted
	}
	return err
}

func (d *diagnosis) conditionalPut(ctx context.Context) error {
	can, err := ConditionalWrites(ctx, d.b)
	if err == nil && !can {
		err = errors.New("of several writers at the same moment, more than one was told that it won")
	}
	return err
}

func (d *diagnosis) conditionalDelete(ctx context.Context) error {
	can, err := ConditionalDeletes(ctx, d.b)
	if err == nil && !can {
		err = errors.New("an object was deleted although another version of it was named")
	}
	return err
}

func (d *diagnosis) tag(ctx context.Context) error {
	if err := d.tagger.SetTags(ctx, d.key, map[string]string{"chartroom": "check"}); err != nil {
		return err
	}
	tags, err := d.tagger.Tags(ctx, d.key)
	if err == nil && (len(tags) != 1 || tags["chartroom"] != "check") {
		err = errors.New("the object does not have the tag that it was given")
	}
	return err
}

// presign fetches an object from a presigned address, as a client would that was sent there.
func (d *diagnosis) presign(ctx context.Context) error {
	const contentType = "application/vnd.chartroom.check"
	address, err := d.presigner.Presign(ctx, d.key, contentType, time.Minute)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		// Without the address, which is a secret.
		return errors.New("the presigned address is not an address")
	}
	client := http.DefaultClient
	if f, ok := d.b.(fetcher); ok {
		client = f.Client()
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the presigned address cannot be fetched: %w", errors.Unwrap(err))
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(io.LimitReader(answer.Body, maxContent))
	switch {
	case err != nil:
		return fmt.Errorf("the presigned address cannot be fetched: %w", err)
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("the presigned address answers %s", answer.Status)
	case string(got) != content:
		return errContent
	case answer.Header.Get("Content-Type") != contentType:
		return fmt.Errorf("the presigned address answers with the content type %q, and not with the one that was asked for", answer.Header.Get("Content-Type"))
	}
	return nil
}

func (d *diagnosis) delete(ctx context.Context) error {
	if err := d.b.Delete(ctx, d.key, bucket.Condition{}); err != nil {
		return err
	}
	switch _, err := d.b.Head(ctx, d.key); {
	case errors.Is(err, bucket.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return errors.New("an object that was deleted is still there")
}
