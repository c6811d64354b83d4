package chart

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MaxTextBytes bounds each text of a chart that is read for people.
const MaxTextBytes = 1 << 20

// Text is a file of a chart for people to read.
type Text struct {
	// Name is the path below the chart's directory; empty where the chart has no such file.
	Name string
	// Size is that of the file, in bytes.
	Size int64
	// Content is nil where the file has more than MaxTextBytes.
	Content []byte
}

// File is a file of a chart.
type File struct {
	// Name is the path below the chart's directory.
	Name string
	// Size in bytes.
	Size int64
}

// Contents are what people read of a chart's archive.
type Contents struct {
	// ChartYAML, README, Values and Schema are Chart.yaml, README.md, values.yaml and values.schema.json.
	ChartYAML, README, Values, Schema Text
	// Templates are the files below templates/, in the order of their names.
	Templates []File
	// Bundled are the charts below charts/: the names of their directories and archives, in order.
	Bundled []string
	// Unnamed is how many templates and bundled charts there are beside those: all names together have 128 KiB at most.
	Unnamed int
}

const (
	// maxNamesBytes bounds the names of files that are kept of a chart, for each of which nameBytes are reckoned beside it.
	maxNamesBytes = 128 << 10
	nameBytes     = 40
)

// ReadContents reads a chart archive of size bytes to its end, within the bounds of Scan, and keeps what people read of it.
// Where a file is there twice, the last counts, as with helm. Errors are those of Scan.
func ReadContents(ctx context.Context, archive io.Reader, size int64) (Contents, error) {
	var c Contents
	templates, bundled := map[string]int64{}, map[string]bool{}
	room := maxNamesBytes
	fits := func(name string) bool {
		if room -= len(name) + nameBytes; room >= 0 {
			return true
		}
		c.Unnamed++
		return false
	}
	chartYAML, err := new(scanner).scan(ctx, archive, size, func(name string, size int64, content io.Reader) (bool, error) {
		folder, rest, below := strings.Cut(name, "/")
		switch {
		case below && folder == "templates":
			if _, known := templates[name]; known || fits(name) {
				templates[name] = size
			}
		case below && folder == "charts":
			dependency, _, _ := strings.Cut(rest, "/")
			if bundled[dependency] || fits(dependency) {
				bundled[dependency] = true
			}
		case strings.EqualFold(name, "README.md"):
			return c.README.read(name, size, content)
		case name == "values.yaml":
			return c.Values.read(name, size, content)
		case name == "values.schema.json":
			return c.Schema.read(name, size, content)
		}
		return false, nil
	})
	if err != nil {
		return Contents{}, err
	}
	c.ChartYAML = Text{Name: "Chart.yaml", Size: int64(len(chartYAML)), Content: chartYAML}
	for name, size := range templates {
		c.Templates = append(c.Templates, File{Name: name, Size: size})
	}
	slices.SortFunc(c.Templates, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for name := range bundled {
		c.Bundled = append(c.Bundled, name)
	}
	slices.Sort(c.Bundled)
	return c, nil
}

// ReadText reads one file of a chart archive of size bytes, by its path below the chart's directory. The Text has no name
// where there is no such file. Errors are those of Scan.
func ReadText(ctx context.Context, archive io.Reader, size int64, name string) (Text, error) {
	var t Text
	_, err := new(scanner).scan(ctx, archive, size, func(found string, size int64, content io.Reader) (bool, error) {
		if found != name {
			return false, nil
		}
		return t.read(found, size, content)
	})
	if err != nil {
		return Text{}, err
	}
	return t, nil
}

func (t *Text) read(name string, size int64, content io.Reader) (read bool, err error) {
	*t = Text{Name: name, Size: size}
	if size > MaxTextBytes {
		return false, nil
	}
	t.Content = make([]byte, size)
	if _, err := io.ReadFull(content, t.Content); err != nil {
		return true, fmt.Errorf("read %s: %w", name, err)
	}
	return true, nil
}
