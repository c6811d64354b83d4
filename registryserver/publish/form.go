package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
)

// maxBetween bounds what is read of a form between the contents of its fields: boundaries and headers.
const maxBetween = 64 << 10

// MaxForm bounds a form, in bytes.
const MaxForm = chart.MaxArchiveBytes + maxProvenance + 4*maxBetween

// FormError says what is wrong with a form.
type FormError struct{ Reason string }

// Error is the reason.
func (e *FormError) Error() string { return e.Reason }

// Form publishes the archive in the field chart, or file, of a form (RFC 7578), with the provenance in the field prov where
// there is one, in any order. body is the form, whose fields boundary separates. Errors: *FormError, ErrBusy,
// *repository.InvalidManifestError, those of May, of repository.PutBlob and repository.PutManifest, and body's own.
func (p *Publisher) Form(ctx context.Context, body io.Reader, boundary string, q Request) (Result, error) {
	leave, ok := p.gate.Enter(ctx, q.By)
	if !ok {
		return Result{}, ErrBusy
	}
	defer leave()
	between := &budget{r: body}
	form := multipart.NewReader(between, boundary)
	var taken *archive
	var provenance []byte
	for {
		between.limited, between.left = true, maxBetween
		part, err := form.NextRawPart()
		if err == io.EOF { //nolint:errorlint // A form that is cut wraps it.
			break
		}
		if err != nil {
			return Result{}, formProblem(between, &FormError{"the form is not one that can be read, or is cut: send multipart/form-data, as curl -F file=@chart.tgz does"})
		}
		between.limited = false
		switch name := part.FormName(); {
		case (name == "chart" || name == "file") && taken == nil:
			taken, err = p.take(ctx, part, q)
		case name == "prov" && provenance == nil:
			provenance, err = readProvenance(part)
		case name == "chart" || name == "file" || name == "prov":
			err = &FormError{"the form has more than one chart, or more than one provenance: publish one chart at a time"}
		default:
			err = &FormError{fmt.Sprintf("the form has a field %.40q: it takes the archive as \"chart\" or \"file\", and its provenance as \"prov\"", name)}
		}
		if err != nil {
			return Result{}, formProblem(between, err)
		}
	}
	if taken == nil {
		return Result{}, &FormError{"the form has no chart: send the archive as the field \"chart\" or \"file\", as curl -F file=@chart.tgz does"}
	}
	return p.finish(ctx, taken, provenance, q)
}

func readProvenance(part io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(part, maxProvenance+1))
	if err == nil && len(content) > maxProvenance {
		err = &FormError{fmt.Sprintf("the provenance has more than %d bytes", maxProvenance)}
	}
	return content, err
}

// formProblem says of what the body's own errors are not to blame for that the form is wrong.
func formProblem(body *budget, err error) error {
	if body.err != nil {
		return fmt.Errorf("read the form: %w", body.err)
	}
	return err
}

// budget reads a form, and fails where too much comes between its fields. It keeps what went wrong with the body.
type budget struct {
	r       io.Reader
	limited bool
	left    int
	err     error
}

func (b *budget) Read(p []byte) (int, error) {
	if b.limited {
		if b.left == 0 {
			b.err = &FormError{fmt.Sprintf("the form has more than %d KiB between its fields", maxBetween>>10)}
			return 0, b.err
		}
		p = p[:min(len(p), b.left)]
	}
	n, err := b.r.Read(p)
	b.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
