// Package bucket defines the object store that a registry lives in. A directory and S3 implement it; all registry
// logic is written once, above it.
//
// Keys are slash-separated, made of the characters A-Z a-z 0-9 . _ - + %, with no empty, "." or ".." segment, and at
// most 1,024 bytes long; a segment has at most 255. No key is a prefix of another at a slash: "a" and "a/b" never both
// exist.
package bucket

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors that every implementation returns, wrapped with what was being done. Callers test with errors.Is.
var (
	// ErrNotFound: no object has the key.
	ErrNotFound = errors.New("object not found")
	// ErrExists: a put that asked for absence found an object.
	ErrExists = errors.New("object exists already")
	// ErrChanged: a put or delete that named an ETag found another one, or no object.
	ErrChanged = errors.New("object was changed by somebody else")
	// ErrRange: the range begins at or behind the end of the object.
	ErrRange = errors.New("range not satisfiable")
	// ErrFull: the store has no room.
	ErrFull = errors.New("storage is full")
	// ErrReadOnly: the store refuses writes: a read-only file system, or missing permission.
	ErrReadOnly = errors.New("storage cannot be written to")
	// ErrUnavailable: the store failed in a way that a later try may survive, or cannot be read at all.
	ErrUnavailable = errors.New("storage is not available")
	// ErrKey: the key is not of the form that the package comment gives. A programming error, never a user's.
	ErrKey = errors.New("invalid object key")
)

// Info describes an object.
type Info struct {
	// Key of the object.
	Key string
	// Size in bytes.
	Size int64
	// ETag changes whenever the object is replaced by other bytes; opaque. In a directory it changes with every put.
	// S3 servers make it of the content: a put of the same bytes goes unnoticed by a condition that names it, so that
	// what is guarded against being put again needs something in its bytes that differs each time.
	ETag string
	// Modified is when the object was written, by the store's clock.
	Modified time.Time
}

// Range asks for part of an object.
type Range struct {
	// Offset of the first byte.
	Offset int64
	// Length in bytes; negative for all up to the end. What is behind the end is left out without an error.
	Length int64
}

// Condition guards a put or a delete. The zero value guards nothing. At most one field is set.
type Condition struct {
	// Absent lets a put succeed only where no object has the key.
	Absent bool
	// ETag lets the operation succeed only where the object has this ETag.
	ETag string
}

// Page is one answer of List.
type Page struct {
	// Objects in ascending byte order of their keys.
	Objects []Info
	// Prefixes are the distinct beginnings of keys up to and including the delimiter, in ascending order.
	Prefixes []string
	// Next is the StartAfter that continues the listing; empty at the end.
	Next string
}

// ListOptions narrow a listing.
type ListOptions struct {
	// Prefix of the keys wanted.
	Prefix string
	// StartAfter leaves out keys, and common prefixes, that are not greater.
	StartAfter string
	// Delimiter is empty or "/": keys that contain it behind Prefix are folded into Page.Prefixes.
	Delimiter string
	// Limit bounds Objects and Prefixes together; 0 or more than 1,000 mean 1,000. With NamesOnly it may be more, and
	// an implementation gives as much of it at once as it can do cheaply: Page.Next says whether there is more.
	Limit int
	// NamesOnly leaves all fields of Page.Objects but Key empty, where that is less work.
	NamesOnly bool
}

// Bucket stores objects under keys. Every method may be called from many goroutines, and several processes may use one
// store at the same time. What was written is seen by every later read of any of them.
type Bucket interface {
	// Get opens an object, or the part of it that r names; r may be nil. Info describes the whole object. The caller
	// closes the reader. Errors: ErrNotFound, ErrRange, ErrUnavailable.
	Get(ctx context.Context, key string, r *Range) (io.ReadCloser, Info, error)

	// Head describes an object. Errors: ErrNotFound, ErrUnavailable.
	Head(ctx context.Context, key string) (Info, error)

	// Put stores all that body yields up to io.EOF. Any other error of body, and the end of ctx, are returned as they
	// are, and nothing becomes visible: a body that verifies a digest as it is read makes Put verified. size is the
	// number of bytes that will come, negative when unknown; another number is io.ErrUnexpectedEOF or an error. When
	// Put returns nil the object is durable and visible whole. Errors: ErrExists, ErrChanged, ErrFull, ErrReadOnly,
	// ErrUnavailable.
	Put(ctx context.Context, key string, body io.Reader, size int64, c Condition) (Info, error)

	// Delete removes an object. Condition.Absent is not allowed. Without a condition, a key that has no object is no
	// error. When it returns nil the removal is durable. With an ETag, and no object there, a directory gives ErrChanged,
	// while S3 servers may give nil: of several who delete one object, more than one may be told that they did.
	// Errors: ErrChanged, ErrReadOnly, ErrUnavailable.
	Delete(ctx context.Context, key string, c Condition) error

	// List returns one page of objects.
	List(ctx context.Context, o ListOptions) (Page, error)

	// Copy makes to the same bytes as from, without sending them through this program: a hard link, or a copy on the
	// server's side. An object that has the key already is replaced. When it returns nil the object is durable. Info's
	// Modified may be that of from.
	// Errors: ErrNotFound, ErrFull, ErrReadOnly, ErrUnavailable.
	Copy(ctx context.Context, from, to string) (Info, error)
}

// Versioner is a Bucket that tells cheaply whether a listing has changed.
type Versioner interface {
	// Version is another one after any object right below prefix, which ends in "/", was put or deleted, by whatever
	// process. It is empty while that cannot be told for certain, and where nothing is below prefix.
	Version(ctx context.Context, prefix string) (string, error)
}

// Comparer is a Bucket that tells for less than Head takes whether an object is as it was.
type Comparer interface {
	// Same reports that an object has this ETag now. It is never true of another object; false says nothing: ask Head.
	Same(ctx context.Context, key, etag string) bool
}

// Presigner is a Bucket that gives out addresses from which everybody can read one object for a while.
type Presigner interface {
	// Presign returns an https or http URL that answers GET of the object with the content type given, for at most
	// expires. The object need not exist.
	Presign(ctx context.Context, key, contentType string, expires time.Duration) (string, error)
}
