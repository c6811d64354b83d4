package s3_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/buckettest"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// options are for a new bucket of a server.
func options(t *testing.T, server *s3server.Server, name string) s3.Options {
	t.Helper()
	server.NewBucket(t, name)
	return s3.Options{Bucket: name, Region: "us-east-1", Endpoint: server.Endpoint, PathStyle: true, CredentialsDir: credentialFiles(t, server.AccessKey, server.SecretKey)}
}

func credentialFiles(t *testing.T, id, secret string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"accessKeyID": id, "secretAccessKey": secret + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, o s3.Options) *s3.Bucket {
	t.Helper()
	b, err := s3.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	for name, prefix := range map[string]string{"whole bucket": "", "prefix": "team-a/charts"} {
		t.Run(name, func(t *testing.T) {
			var count atomic.Int32
			buckettest.Run(t, func(t *testing.T) bucket.Bucket {
				t.Helper()
				o := options(t, server, fmt.Sprintf("bucket-%d-%d", len(prefix), count.Add(1)))
				if prefix != "" {
					// A registry beside it, which must not be seen.
					other := o
					other.Prefix = "team-a/charts-2"
					if _, err := open(t, other).Put(t.Context(), "a", strings.NewReader("x"), 1, bucket.Condition{}); err != nil {
						t.Fatal(err)
					}
				}
				o.Prefix = prefix
				return open(t, o)
			})
		})
	}
}
