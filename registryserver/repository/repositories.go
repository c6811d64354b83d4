package repository

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sync/errgroup"
)

// Repositories lists at most n names of repositories that something is stored under, of those behind last in byte order;
// n of 0 means all. last need not exist. more says that there are others behind.
func (s *Store) Repositories(ctx context.Context, n int, last string) (names []string, more bool, err error) {
	for name, err := range s.names(ctx, "", last) {
		if err != nil {
			return nil, false, err
		}
		if n > 0 && len(names) == n {
			return names, true, nil
		}
		names = append(names, name)
	}
	return names, false, nil
}

// Catalog is Repositories of those that have a manifest and that may allows; n is at least 1. It costs one listing for
// each thousand repositories that it passes over, and one for each that may allows.
func (s *Store) Catalog(ctx context.Context, n int, last string, may func(name string) bool) (names []string, more bool, err error) {
	var candidates []string
	take := func() error {
		known, err := s.known(ctx, candidates)
		names, candidates = append(names, known...), nil
		return err
	}
	for name, err := range s.names(ctx, "", last) {
		if err != nil {
			return nil, false, err
		}
		if !may(name) {
			continue
		}
		if candidates = append(candidates, name); len(candidates) < maxParallel {
			continue
		}
		if err := take(); err != nil {
			return nil, false, err
		}
		if len(names) > n {
			break
		}
	}
	if err := take(); err != nil {
		return nil, false, err
	}
	if len(names) > n {
		return names[:n], true, nil
	}
	return names, false, nil
}

// known returns those of names, which are in order, that have a manifest.
func (s *Store) known(ctx context.Context, names []string) ([]string, error) {
	empty := make([]bool, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i, name := range names {
		group.Go(func() (err error) {
			empty[i], err = s.repository(name).empty(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var known []string
	for i, name := range names {
		if !empty[i] {
			known = append(known, name)
		}
	}
	return known, nil
}

// names yields the names that begin with prefix, which is empty or ends in a separator, and are behind last, in byte
// order.
//
// Keys are in another order: a separator ("-", "." or "/") that follows a word stands before the word's end in keys,
// and "/", which keys have as "+", before the other two. But words, the runs of letters, digits and "_", are in the same
// order in both, so the names that begin with the same word are next to each other in both. They are sorted where they
// come in one page of a listing. Of more than a page, those behind each separator are a walk of their own.
func (s *Store) names(ctx context.Context, prefix, last string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		rest, within := strings.CutPrefix(last, prefix)
		if last > prefix && !within {
			return
		}
		after := nameKey(prefix)
		if within {
			after += firstWord(rest)
		}
		for {
			page, err := s.bucket.List(ctx, bucket.ListOptions{Prefix: nameKey(prefix), StartAfter: after, Delimiter: "/"})
			if err != nil {
				yield("", fmt.Errorf("list repositories: %w", err))
				return
			}
			names := make([]string, 0, len(page.Prefixes))
			for _, p := range page.Prefixes {
				names = append(names, decodeName(strings.TrimSuffix(strings.TrimPrefix(p, chartsPrefix), "/")))
			}
			whole := len(names)
			var word string
			if page.Next != "" && whole > 0 {
				// What the page has of the last word may not be all.
				word = prefix + firstWord(names[whole-1][len(prefix):])
				for whole > 0 && hasWord(names[whole-1], word) {
					whole--
				}
			}
			wide := whole == 0 && word != ""
			slices.Sort(names[:whole])
			for _, name := range names[:whole] {
				if name > last && !yield(name, nil) {
					return
				}
			}
			if wide && !s.namesOf(ctx, word, last, yield) {
				return
			}
			switch {
			case page.Next == "":
				return
			case wide:
				after = nameKey(word) + "0" // Behind all with the word, before longer ones.
			case word != "":
				after = nameKey(word)
			default:
				after = page.Next
			}
		}
	}
}

// namesOf yields the names that are word or begin with it and a separator. It returns false when there is no more to
// be yielded.
func (s *Store) namesOf(ctx context.Context, word, last string, yield func(string, error) bool) bool {
	if word > last {
		page, err := s.bucket.List(ctx, bucket.ListOptions{Prefix: nameKey(word) + "/", Limit: 1})
		if err != nil {
			yield("", fmt.Errorf("list repositories: %w", err))
			return false
		}
		if len(page.Objects) > 0 && !yield(word, nil) {
			return false
		}
	}
	for _, separator := range []string{"-", ".", "/"} {
		for name, err := range s.names(ctx, word+separator, last) {
			if !yield(name, err) || err != nil {
				return false
			}
		}
	}
	return true
}

// nameKey is the beginning of the keys of what is stored under names that begin with prefix.
func nameKey(prefix string) string { return chartsPrefix + encodeName(prefix) }

// firstWord is what s has before the first separator.
func firstWord(s string) string {
	end := strings.IndexFunc(s, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z')
	})
	if end < 0 {
		return s
	}
	return s[:end]
}

// hasWord reports whether name is word, or begins with it and a separator.
func hasWord(name, word string) bool {
	rest, ok := strings.CutPrefix(name, word)
	return ok && firstWord(rest) == ""
}
