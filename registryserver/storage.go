package registryserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/tlsfiles"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// observeS3 is told of each request to an S3 server, see s3.Options.Observe.
type observeS3 func(operation, outcome string, took time.Duration)

// maxStaleness bounds how long a deleted version may be served.
const maxStaleness = 5 * time.Minute

// validate says what is wrong, each error with the name of its field.
func (c StorageConfig) validate() (problems []error) {
	if c.Staleness < 0 || c.Staleness > Duration(maxStaleness) {
		problems = append(problems, fmt.Errorf("storage.staleness: must be from 0 to %s", maxStaleness))
	}
	switch {
	case c.S3 == (S3Config{}):
		return problems
	case c.Dir != "":
		return append(problems, errors.New("storage: dir and s3 exclude each other: set one of them"))
	case c.S3.Bucket == "":
		return append(problems, errors.New("storage.s3.bucket: is missing"))
	}
	var joined interface{ Unwrap() []error }
	if errors.As(c.S3.options().Validate(), &joined) {
		for _, err := range joined.Unwrap() {
			problems = append(problems, fmt.Errorf("storage.s3.%w", err))
		}
	}
	if !strings.EqualFold(c.S3.Redirect, RedirectNever) && !strings.EqualFold(c.S3.Redirect, RedirectLarge) {
		problems = append(problems, fmt.Errorf("storage.s3.redirect: %q is neither %s nor %s", c.S3.Redirect, RedirectNever, RedirectLarge))
	}
	return problems
}

func (c S3Config) options() s3.Options {
	return s3.Options{
		Bucket: c.Bucket, Prefix: c.Prefix, Region: c.Region, Endpoint: c.Endpoint, PathStyle: c.PathStyle, CredentialsDir: c.CredentialsDir,
	}
}

// redirectedBytes is the size from which a redirect spares the server more than it costs the client.
const redirectedBytes = 1 << 20

// redirectFrom is the size from which on blobs are fetched from S3 itself; 0 for never.
func (c StorageConfig) redirectFrom() int64 {
	if strings.EqualFold(c.S3.Redirect, RedirectLarge) {
		return redirectedBytes
	}
	return 0
}

// probeFresh is how long the outcome of a look at the storage is used again: S3 servers charge for each request.
func (c StorageConfig) probeFresh() time.Duration {
	if c.S3.Bucket != "" {
		return 10 * time.Second
	}
	return 2 * time.Second
}

// kind is the word for it in wire.StorageState.
func (c StorageConfig) kind() string {
	if c.S3.Bucket != "" {
		return wire.StorageS3
	}
	return wire.StorageFilesystem
}

// String names the storage for messages.
func (c StorageConfig) String() string {
	if c.S3.Bucket == "" {
		return c.Dir
	}
	name := "s3://" + c.S3.Bucket
	if c.S3.Prefix != "" {
		name += "/" + c.S3.Prefix
	}
	return name
}

// OpenBucket opens the storage that a configuration names as it is, without looking whose it is, for commands that try it
// out. c needs no defaults filled in; all but Storage is ignored. An error says what to change.
func OpenBucket(ctx context.Context, c Config) (bucket.Bucket, error) {
	c = c.WithDefaults()
	if err := errors.Join(c.Storage.validate()...); err != nil {
		return nil, err
	}
	return c.Storage.open(ctx, slog.New(slog.DiscardHandler), nil)
}

// open opens the bucket. c is complete. observe may be nil.
func (c StorageConfig) open(ctx context.Context, log *slog.Logger, observe observeS3) (bucket.Bucket, error) {
	if c.S3.Bucket == "" {
		return dir.New(c.Dir)
	}
	o := c.S3.options()
	o.Log, o.Observe = log, observe
	if c.S3.CAFile != "" {
		pool, err := tlsfiles.LoadPool(c.S3.CAFile, log)
		if err != nil {
			return nil, fmt.Errorf("storage.s3.caFile: %w", err)
		}
		o.RootCAs = func() *x509.CertPool { return pool.Current() }
	}
	b, err := s3.New(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("storage.s3: %w", err)
	}
	return b, nil
}

// openStoreIn opens the store of the owner, or of whoever owns it where that is empty, in an open bucket. more, which
// may be nil, adds to its options.
func (c Config) openStoreIn(ctx context.Context, b bucket.Bucket, owner string, more func(*repository.Options)) (*repository.Store, error) {
	options, err := c.contents()
	if err != nil {
		return nil, err
	}
	if more != nil {
		more(&options)
	}
	store, err := repository.Open(ctx, b, owner, options)
	if err != nil {
		return nil, fmt.Errorf("opening the storage in %s: %w", c.Storage, err)
	}
	return store, nil
}
