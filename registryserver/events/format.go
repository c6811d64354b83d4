package events

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// message is an event as it is sent.
type message struct {
	contentType string
	body        []byte
}

// write writes an event in a format.
func write(format receivers.Format, e Event, r Registry) (message, error) {
	m := message{contentType: "application/json"}
	var document any
	switch format {
	case receivers.Buildkite:
		document = buildkiteOf(e, r)
	case receivers.Harbor:
		document = harborOf(e, r)
	case receivers.Flux, receivers.CloudEvents:
		m.contentType = "application/cloudevents+json"
		document = cloudEventOf(e, r)
	default:
		return m, fmt.Errorf("there is no format %q", format)
	}
	body, err := json.Marshal(document)
	if err != nil {
		return m, fmt.Errorf("write the event: %w", err)
	}
	m.body = body
	return m, nil
}

// webURL is the page of what an event is about.
func (e Event) webURL(r Registry) string {
	if e.Chart == "" {
		return r.address()
	}
	return r.address() + "/charts/" + e.Chart + "/" + e.Version
}

// The payload of Buildkite's package registries, with version, digest, created_at and what is behind them added.
type (
	buildkite struct {
		Event   receivers.Event   `json:"event"`
		ID      string            `json:"id"`
		Package *buildkitePackage `json:"package,omitempty"`
		// Registry is where it is in an event that is about no package.
		Registry *buildkiteNamed `json:"registry,omitempty"`
		Sender   buildkiteSender `json:"sender"`
		Message  string          `json:"message,omitempty"`
	}
	buildkitePackage struct {
		ID             string         `json:"id"`
		URL            string         `json:"url"`
		WebURL         string         `json:"web_url"`
		Name           string         `json:"name"`
		Version        string         `json:"version"`
		Tag            string         `json:"tag"`
		Digest         string         `json:"digest"`
		PreviousDigest string         `json:"previous_digest,omitempty"`
		CopiedFrom     string         `json:"copied_from,omitempty"`
		CreatedAt      string         `json:"created_at"`
		Organization   buildkiteNamed `json:"organization"`
		Registry       buildkiteNamed `json:"registry"`
	}
	buildkiteNamed struct {
		ID     string `json:"id"`
		Slug   string `json:"slug"`
		Name   string `json:"name"`
		URL    string `json:"url,omitempty"`
		WebURL string `json:"web_url"`
	}
	buildkiteSender struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
)

func buildkiteOf(e Event, r Registry) buildkite {
	registry := buildkiteNamed{ID: r.Registry, Slug: r.Registry, Name: r.Registry, URL: r.address(), WebURL: r.address()}
	b := buildkite{Event: e.Type, ID: e.ID, Sender: buildkiteSender{ID: e.By, Name: e.By}, Message: e.Message}
	if e.Chart == "" {
		b.Registry = &registry
		return b
	}
	base := strings.TrimRight(r.URL.String(), "/")
	// As the REST API names packages, so that a receiver can ask there.
	id := strings.ReplaceAll(e.Chart, "/", "~") + ":" + e.Tag
	b.Package = &buildkitePackage{
		ID: id, URL: base + "/api/v2/packages/organizations/" + r.Organization + "/registries/" + r.Registry + "/packages/" + id, WebURL: e.webURL(r),
		Name: e.Chart, Version: e.Version, Tag: e.Tag, Digest: string(e.Digest), PreviousDigest: string(e.Before), CopiedFrom: e.CopiedFrom,
		CreatedAt:    e.Time.UTC().Format(time.RFC3339Nano),
		Organization: buildkiteNamed{ID: r.Organization, Slug: r.Organization, Name: r.Organization, WebURL: base + "/"},
		Registry:     registry,
	}
	return b
}

// The payload of Harbor.
type (
	harbor struct {
		Type     string     `json:"type"`
		OccurAt  int64      `json:"occur_at"`
		Operator string     `json:"operator"`
		Data     harborData `json:"event_data"`
	}
	harborData struct {
		Resources  []harborResource `json:"resources"`
		Repository harborRepository `json:"repository"`
	}
	harborResource struct {
		Digest string `json:"digest"`
		Tag    string `json:"tag"`
		URL    string `json:"resource_url"`
	}
	harborRepository struct {
		Created   int64  `json:"date_created"`
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		FullName  string `json:"repo_full_name"`
		Type      string `json:"repo_type"`
	}
)

func harborOf(e Event, r Registry) harbor {
	h := harbor{Type: "PUSH_ARTIFACT", OccurAt: e.Time.Unix(), Operator: e.By, Data: harborData{Resources: []harborResource{}}}
	switch e.Type {
	case receivers.PackageDeleted:
		h.Type = "DELETE_ARTIFACT"
	case receivers.Ping:
		h.Type = "PING"
	}
	full := r.name()
	if e.Chart != "" {
		full += "/" + e.Chart
		// Harbor's own have no scheme either.
		h.Data.Resources = append(h.Data.Resources, harborResource{Digest: string(e.Digest), Tag: e.Tag, URL: r.URL.Host + "/" + full + ":" + e.Tag})
	}
	kind := "private"
	if r.Public {
		kind = "public"
	}
	h.Data.Repository = harborRepository{
		Created: e.Time.Unix(), Name: full[strings.LastIndex(full, "/")+1:], Namespace: full[:strings.LastIndex(full, "/")], FullName: full, Type: kind,
	}
	return h
}

// cloudEvent is an event in the JSON format of CloudEvents 1.0.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            record    `json:"data"`
}

// record is all that is known.
type record struct {
	Organization string `json:"organization"`
	Registry     string `json:"registry"`
	Repository   string `json:"repository,omitempty"`
	Chart        string `json:"chart,omitempty"`
	Version      string `json:"version,omitempty"`
	Tag          string `json:"tag,omitempty"`
	// Reference is what helm pulls.
	Reference      string `json:"reference,omitempty"`
	Digest         string `json:"digest,omitempty"`
	PreviousDigest string `json:"previousDigest,omitempty"`
	MediaType      string `json:"mediaType,omitempty"`
	Size           int64  `json:"size,omitempty"`
	CopiedFrom     string `json:"copiedFrom,omitempty"`
	Actor          string `json:"actor,omitempty"`
	WebURL         string `json:"webURL"`
	Message        string `json:"message,omitempty"`
}

func cloudEventOf(e Event, r Registry) cloudEvent {
	c := cloudEvent{
		SpecVersion: "1.0", ID: e.ID, Source: r.address(), Type: "dev.chartroom." + string(e.Type), Time: e.Time.UTC(), DataContentType: "application/json",
		Data: record{
			Organization: r.Organization, Registry: r.Registry, Chart: e.Chart, Version: e.Version, Tag: e.Tag, Digest: string(e.Digest),
			PreviousDigest: string(e.Before), MediaType: e.MediaType, Size: e.Size, CopiedFrom: e.CopiedFrom, Actor: e.By, WebURL: e.webURL(r), Message: e.Message,
		},
	}
	if e.Chart != "" {
		c.Subject = e.Chart + ":" + e.Tag
		c.Data.Repository = r.name() + "/" + e.Chart
		c.Data.Reference = "oci://" + r.URL.Host + "/" + c.Data.Repository + ":" + e.Tag
	}
	return c
}
