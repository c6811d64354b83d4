package web

import (
	"maps"
	"slices"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
)

const (
	// maxDetailsBytes bounds what a page shows of what a chart or manifest says of itself, beside its texts: each byte may
	// become five in HTML.
	maxDetailsBytes = 32 << 10
	// maxFieldBytes bounds what is no list of it, and rowBytes are reckoned for each item of what is one.
	maxFieldBytes = 2 << 10
	rowBytes      = 40
)

// room is how many bytes may still be shown; less than none where something was left out.
type room int

// fit returns the beginning of a list for which there is room, by the texts that are shown of each item.
func fit[T any](r *room, list []T, texts func(T) []string) []T {
	for i, item := range list {
		*r -= rowBytes
		for _, text := range texts(item) {
			*r -= room(len(text))
		}
		if *r < 0 {
			// Cloned: what is left out is not kept.
			return slices.Clone(list[:i])
		}
	}
	return list
}

// shorten leaves out what a page has no room for.
func (c *content) shorten() {
	d, p := &c.Details, &c.Parsed
	own, dependencies := room(maxDetailsBytes), room(maxDetailsBytes) // Those are on a page of their own.
	for _, text := range []*string{&d.Name, &d.Version, &d.AppVersion, &d.KubeVersion, &d.Type, &d.Description, &d.Home, &p.ArtifactType} {
		c.Shortened = c.Shortened || len(*text) > maxFieldBytes
		*text = clip(*text, maxFieldBytes)
		own -= room(len(*text))
	}
	if p.Config != nil {
		p.Config.MediaType = clip(p.Config.MediaType, maxFieldBytes)
	}
	// An address is there twice: where a link leads, and as its text.
	d.Sources = fit(&own, d.Sources, func(s string) []string { return []string{s, s} })
	d.Maintainers = fit(&own, d.Maintainers, func(m chart.Maintainer) []string { return []string{m.Name, m.Email, m.URL} })
	d.Keywords = fit(&own, d.Keywords, func(s string) []string { return []string{s} })
	layer := func(d descriptor) []string { return []string{d.MediaType, d.Digest.String()} }
	p.Layers, p.Manifests = fit(&own, p.Layers, layer), fit(&own, p.Manifests, layer)
	if !c.IsChart() {
		for _, name := range slices.Sorted(maps.Keys(p.Annotations)) {
			d.Annotations = append(d.Annotations, chart.Annotation{Name: name, Value: p.Annotations[name]})
		}
	}
	p.Annotations = nil
	d.Annotations = fit(&own, d.Annotations, func(a chart.Annotation) []string { return []string{a.Name, a.Value} })
	d.Dependencies = fit(&dependencies, d.Dependencies, func(d chart.Dependency) []string {
		return []string{d.Name, d.Alias, d.Version, d.Repository, d.Repository, d.Condition}
	})
	c.Shortened = c.Shortened || own < 0 || dependencies < 0
}
