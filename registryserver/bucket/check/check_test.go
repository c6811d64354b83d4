package check_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/check"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/test/s3server"
	"github.com/google/go-cmp/cmp"
)

func directory(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inS3(t *testing.T, server *s3server.Server) bucket.Bucket {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	server.NewBucket(t, "charts")
	b, err := s3.New(t.Context(), s3.Options{Bucket: "charts", Prefix: "p", Region: "us-east-1", Endpoint: server.Endpoint, PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantEmpty(t *testing.T, b bucket.Bucket) {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{})
	if err != nil || len(p.Objects) > 0 {
		t.Errorf("left behind: %v, %v", p.Objects, err)
	}
}

// careless is storage that ignores some of what it is asked.
type careless struct {
	bucket.Bucket
	ignoreAbsent, ignoreMatch, ignoreMatchOfDelete bool
	// forge is content that comes back in place of what was written.
	forge string
	// denied is the operation that fails.
	denied string
}

var errDenied = errors.New("denied")

func (c *careless) Put(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	if c.denied == "put" {
		return bucket.Info{}, errDenied
	}
	condition.Absent = condition.Absent && !c.ignoreAbsent
	if c.ignoreMatch {
		condition.ETag = ""
	}
	return c.Bucket.Put(ctx, key, body, size, condition)
}

func (c *careless) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if c.denied == "get" {
		return nil, bucket.Info{}, errDenied
	}
	body, info, err := c.Bucket.Get(ctx, key, r)
	if c.forge != "" && err == nil {
		_ = body.Close()
		body = io.NopCloser(strings.NewReader(c.forge))
	}
	return body, info, err
}

func (c *careless) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if c.denied == "list" {
		return bucket.Page{}, errDenied
	}
	return c.Bucket.List(ctx, o)
}

func (c *careless) Delete(ctx context.Context, key string, condition bucket.Condition) error {
	if c.denied == "delete" {
		return errDenied
	}
	if c.ignoreMatchOfDelete {
		condition.ETag = ""
	}
	return c.Bucket.Delete(ctx, key, condition)
}

func TestConditions(t *testing.T) {
	server := s3server.Start(t)
	for name, c := range map[string]struct {
		bucket          bucket.Bucket
		writes, deletes bool
	}{
		"a directory":                {directory(t), true, true},
		"S3":                         {inS3(t, server), true, true},
		"ignores If-None-Match":      {&careless{Bucket: directory(t), ignoreAbsent: true}, false, true},
		"ignores If-Match":           {&careless{Bucket: directory(t), ignoreMatch: true}, false, true},
		"ignores If-Match of DELETE": {&careless{Bucket: directory(t), ignoreMatchOfDelete: true}, true, false},
		"stores the loser's content": {&careless{Bucket: directory(t), forge: "x"}, false, true},
	} {
		if writes, err := check.ConditionalWrites(t.Context(), c.bucket); err != nil || writes != c.writes {
			t.Errorf("%s: writes conditionally: %v, %v", name, writes, err)
		}
		if deletes, err := check.ConditionalDeletes(t.Context(), c.bucket); err != nil || deletes != c.deletes {
			t.Errorf("%s: deletes conditionally: %v, %v", name, deletes, err)
		}
		wantEmpty(t, c.bucket)
	}
	// What cannot be tried is not known.
	if _, err := check.ConditionalWrites(t.Context(), &careless{Bucket: directory(t), denied: "put"}); !errors.Is(err, errDenied) {
		t.Error(err)
	}
	if _, err := check.ConditionalDeletes(t.Context(), &careless{Bucket: directory(t), denied: "delete"}); !errors.Is(err, errDenied) {
		t.Error(err)
	}
}

func TestDiagnose(t *testing.T) {
	server := s3server.Start(t)
	for name, c := range map[string]struct {
		bucket bucket.Bucket
		// want names what is not ok.
		want map[string]string
	}{
		"a directory":                {directory(t), map[string]string{"tag": check.NotApplicable, "presign": check.NotApplicable}},
		"S3":                         {inS3(t, server), map[string]string{}},
		"cannot be written":          {&careless{Bucket: directory(t), denied: "put"}, map[string]string{"put": check.Failed, "get": check.Failed, "list": check.Failed, "conditional put": check.Failed, "conditional delete": check.Failed, "tag": check.NotApplicable, "presign": check.NotApplicable, "delete": check.Failed}},
		"returns other content":      {&careless{Bucket: directory(t), forge: "x"}, map[string]string{"get": check.Failed, "conditional put": check.Failed, "tag": check.NotApplicable, "presign": check.NotApplicable}},
		"cannot be listed":           {&careless{Bucket: directory(t), denied: "list"}, map[string]string{"list": check.Failed, "tag": check.NotApplicable, "presign": check.NotApplicable}},
		"ignores If-Match of DELETE": {&careless{Bucket: directory(t), ignoreMatchOfDelete: true}, map[string]string{"conditional delete": check.Failed, "tag": check.NotApplicable, "presign": check.NotApplicable}},
	} {
		got, names := map[string]string{}, []string{}
		check.Diagnose(t.Context(), c.bucket, func(r check.Result) {
			names = append(names, r.Name)
			if r.Outcome != check.OK {
				got[r.Name] = r.Outcome
			}
			if (r.Outcome == check.Failed) != (r.Error != "") || (r.Outcome == check.OK) != (r.Hint == "") {
				t.Errorf("%s: %+v", name, r)
			}
			if c.want["put"] == check.Failed && r.Outcome == check.Failed && (r.Name == "put") == strings.Contains(r.Error, "not tried") {
				t.Errorf("%s: %+v", name, r)
			}
		})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if want := []string{"put", "get", "list", "conditional put", "conditional delete", "tag", "presign", "delete"}; fmt.Sprint(names) != fmt.Sprint(want) {
			t.Errorf("%s: %v", name, names)
		}
		if inner, ok := c.bucket.(*careless); ok {
			wantEmpty(t, inner.Bucket)
		} else {
			wantEmpty(t, c.bucket)
		}
	}
}
