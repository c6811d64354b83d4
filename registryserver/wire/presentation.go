package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// PresentationVersion is that of a [Presentation].
const PresentationVersion = 1

// PresentationFile is the name of the document beside the access snapshot, in the same Secret, so that a change of it
// restarts nothing.
const PresentationFile = "about.json"

// maxPresentationBytes is far more than a presentation has.
const maxPresentationBytes = 64 << 10

// Presentation is what a registry is called, for people, and what they need to reach it.
type Presentation struct {
	// Version is [PresentationVersion].
	Version int `json:"version"`
	// DisplayName is a title, Description a sentence or two, Emoji one that is shown on Color, "#rrggbb". Each may be empty.
	DisplayName string `json:"displayName,omitempty"`
	Description string `json:"description,omitempty"`
	Emoji       string `json:"emoji,omitempty"`
	Color       string `json:"color,omitempty"`
	// Authority is the ConfigMap, as namespace/name, with the authority of the registry's certificate as ca.crt; empty where
	// clients trust the certificate as it is, or where there is none.
	Authority string `json:"authority,omitempty"`
}

// Encode returns the document; the same presentation has the same bytes.
func (p Presentation) Encode() []byte {
	p.Version = PresentationVersion
	return encode(p)
}

// DecodePresentation reads a document. It is an error that it has another version.
func DecodePresentation(document []byte) (Presentation, error) {
	if len(document) > maxPresentationBytes {
		return Presentation{}, fmt.Errorf("the presentation has more than %d bytes", maxPresentationBytes)
	}
	var p Presentation
	if err := json.Unmarshal(document, &p); err != nil {
		return Presentation{}, errors.New("the presentation is no JSON of the right form")
	}
	if p.Version != PresentationVersion {
		return Presentation{}, fmt.Errorf("the presentation has the version %d; this program reads %d", p.Version, PresentationVersion)
	}
	return p, nil
}
