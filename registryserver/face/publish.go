package face

import (
	"mime"
	"net/http"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// Publish publishes what comes with a request as a form, see publish.Publisher.Form, under the path of ?to=, or under the
// chart's name. What it finds out about the request it notes in seen.
func (d *Door) Publish(r *http.Request, p *publish.Publisher, identity access.Identity, seen *audit.Observation) (publish.Result, error) {
	if identity.Anonymous {
		return publish.Result{}, d.Anonymous()
	}
	mediaType, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || parameters["boundary"] == "" {
		return publish.Result{}, &publish.FormError{Reason: "a chart is published as a form, multipart/form-data, as curl -F file=@chart.tgz sends it"}
	}
	if r.ContentLength > publish.MaxForm {
		return publish.Result{}, &repository.TooLargeError{What: "chart archive", Limit: chart.MaxArchiveBytes}
	}
	result, err := p.Form(r.Context(), &Body{ReadCloser: r.Body}, parameters["boundary"], publish.Request{
		To: r.URL.Query().Get("to"), By: identity.ID,
		May: func(chart string) error {
			seen.Chart = chart
			return d.Authorize(identity, Push, chart)
		},
	})
	if err != nil {
		return result, err
	}
	seen.Reference, seen.Stored = result.Tag, result.Digest.String()
	return result, nil
}
