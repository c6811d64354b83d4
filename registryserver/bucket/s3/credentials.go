package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

const (
	// credentialsFresh is how long files of credentials are used before they are read again.
	credentialsFresh = 2 * time.Second
	// maxCredentialBytes bounds one file; session tokens have about 1 KiB.
	maxCredentialBytes = 16 << 10
)

// credentialsError says that there are no credentials to ask with. Its text has none either. What it is made of cannot be
// unwrapped: a 404 of the service that gives out credentials must not look like one of the bucket.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }

// credentialsOf returns where the credentials come from. With a directory nothing else is asked: no environment, and no
// service of the machine, which may be slow to not answer.
func credentialsOf(ctx context.Context, o Options) (aws.CredentialsProvider, error) {
	if o.CredentialsDir != "" {
		files := &credentialFiles{dir: o.CredentialsDir, log: o.Log}
		_, err := files.Retrieve(ctx)
		return aws.NewCredentialsCache(files), err
	}
	// Only credentials are taken from the AWS configuration: what the registry uses is what it was told.
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(o.Region), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, &credentialsError{fmt.Errorf("reading the AWS configuration: %w", err)}
	}
	return aws.NewCredentialsCache(found{loaded.Credentials}), nil
}

// found names the error of a chain of sources for what it is.
type found struct{ aws.CredentialsProvider }

func (f found) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := f.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = &credentialsError{fmt.Errorf("no credentials were found in the environment, nor by the identity of the pod or machine: %w", err)}
	}
	return c, err
}

// credentialFiles are credentials in files. When they can no longer be read, the last good ones stay in use.
type credentialFiles struct {
	dir string
	log *slog.Logger

	mu   sync.Mutex
	last aws.Credentials
	// problem is why they cannot be read now; empty when they can.
	problem string
}

// Retrieve implements aws.CredentialsProvider.
func (f *credentialFiles) Retrieve(context.Context) (aws.Credentials, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.readWhole()
	if err != nil {
		err = &credentialsError{fmt.Errorf("reading the S3 credentials: %w", err)}
	}
	switch {
	case err != nil && f.last.AccessKeyID == "":
		return c, err
	case err != nil:
		if f.problem != err.Error() {
			f.problem = err.Error()
			f.log.Error("the S3 credentials cannot be read again; the last good ones stay in use", "error", err)
		}
		c = f.last
	case f.last.AccessKeyID != "" && (f.problem != "" || c.AccessKeyID != f.last.AccessKeyID || c.SecretAccessKey != f.last.SecretAccessKey || c.SessionToken != f.last.SessionToken):
		f.log.Info("the S3 credentials changed and are in use")
		f.problem = ""
	}
	c.CanExpire, c.Expires = true, time.Now().Add(credentialsFresh)
	f.last = c
	return c, nil
}

// readWhole reads until two times in a row give the same: what is replaced while it is read is half old and half new.
func (f *credentialFiles) readWhole() (aws.Credentials, error) {
	c, err := f.read()
	for range 5 {
		again, againErr := f.read()
		if err == nil && againErr == nil && again == c {
			break
		}
		c, err = again, againErr
	}
	return c, err
}

func (f *credentialFiles) read() (c aws.Credentials, err error) {
	c.Source = "files"
	for _, file := range []struct {
		name  string
		value *string
	}{{"accessKeyID", &c.AccessKeyID}, {"secretAccessKey", &c.SecretAccessKey}, {"sessionToken", &c.SessionToken}} {
		path := filepath.Join(f.dir, file.name)
		info, err := os.Stat(path)
		if file.value == &c.SessionToken && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		if !info.Mode().IsRegular() || info.Size() > maxCredentialBytes {
			return c, fmt.Errorf("%s is not a file of at most %d bytes", path, maxCredentialBytes)
		}
		content, err := os.ReadFile(path) //nolint:gosec // The path is the administrator's own.
		if err != nil {
			return c, err
		}
		if *file.value = strings.TrimSpace(string(content)); *file.value == "" && file.value != &c.SessionToken {
			return c, fmt.Errorf("%s is empty", path)
		}
	}
	return c, nil
}
