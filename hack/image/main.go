// Command image puts static programs into a container image, without a Docker daemon:
//
//	image --tag localhost/chartroom:v0.1.0 --out dist/chartroom.tar [--label KEY=VALUE]... PROGRAM...
//
// Each program lands in the root of the file system under its own name; the first one is the entry point. The image has
// one layer, no shell, and runs as a user without privileges. The same programs give the same bytes: every time stamp is
// the epoch. The tar is one that `docker load` and `ctr images import` read.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// user is a numeric identity, so that a pod with runAsNonRoot can tell that it is not root.
const user = "65532:65532"

// labels collects --label flags.
type labels map[string]string

func (l labels) String() string { return fmt.Sprint(map[string]string(l)) }

// Set takes one KEY=VALUE.
func (l labels) Set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return fmt.Errorf("%q is not KEY=VALUE", text)
	}
	l[key] = value
	return nil
}

func main() {
	marks := labels{}
	tag := flag.String("tag", "", "name and tag of the image")
	out := flag.String("out", "", "the tar to write")
	flag.Var(marks, "label", "KEY=VALUE, may be given several times")
	flag.Parse()
	if *tag == "" || *out == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*tag, *out, marks, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write builds the image and moves it to out only when it is whole.
func write(tag, out string, marks labels, programs []string) error {
	reference, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return err
	}
	image, err := build(marks, programs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	unfinished := out + ".unfinished"
	if err := tarball.WriteToFile(unfinished, reference, image); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return os.Rename(unfinished, out)
}

// build makes the image of the programs.
func build(marks labels, programs []string) (v1.Image, error) {
	content, err := layer(programs)
	if err != nil {
		return nil, err
	}
	files, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("make the layer: %w", err)
	}
	epoch := v1.Time{Time: time.Unix(0, 0).UTC()}
	image, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   files,
		History: v1.History{CreatedBy: "hack/image", Created: epoch},
	})
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, epoch
	file.Config = v1.Config{
		User:       user,
		WorkingDir: "/",
		Entrypoint: []string{"/" + filepath.Base(programs[0])},
		Labels:     marks,
	}
	return mutate.ConfigFile(image, file)
}

// layer is the tar of the programs: owned by root and not writable, so that a program cannot change itself.
func layer(programs []string) ([]byte, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, program := range programs {
		data, err := os.ReadFile(program)
		if err != nil {
			return nil, err
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     filepath.Base(program),
			Size:     int64(len(data)),
			Mode:     0o555,
			ModTime:  time.Unix(0, 0).UTC(),
			Format:   tar.FormatUSTAR,
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", program, err)
		}
		if _, err := archive.Write(data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", program, err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("pack the programs: %w", err)
	}
	return content.Bytes(), nil
}
