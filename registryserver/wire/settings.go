package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// SettingsVersion is that of [Settings].
const SettingsVersion = 1

// SettingsFile is the name of the document beside the access snapshot, in the same Secret, so that a change of it restarts
// nothing.
const SettingsFile = "settings.json"

// MaxSettingsBytes bounds an encoded document.
const MaxSettingsBytes = 256 << 10

// Settings are what a HelmRegistry says and how it is, for people to look at. Nothing in the server depends on it.
type Settings struct {
	// Version is [SettingsVersion].
	Version int `json:"version"`
	// Namespace and Name are those of the object, Generation is that of its spec.
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Generation int64  `json:"generation,omitempty"`
	// Spec is the spec in YAML, without what could be secret; empty where it is too long.
	Spec string `json:"spec,omitempty"`
	// Conditions are those of the status, by their types.
	Conditions []Condition `json:"conditions,omitempty"`
}

// Condition is a condition of an object (Kubernetes API Conventions, "Typical status properties").
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Since is when Status became what it is.
	Since time.Time `json:"since,omitzero"`
}

// Encode returns the document; the same settings have the same bytes.
func (s Settings) Encode() []byte {
	s.Version = SettingsVersion
	return encode(s)
}

// DecodeSettings reads a document. It is an error that it has another version.
func DecodeSettings(document []byte) (Settings, error) {
	if len(document) > MaxSettingsBytes {
		return Settings{}, fmt.Errorf("the settings have more than %d bytes", MaxSettingsBytes)
	}
	var s Settings
	if err := json.Unmarshal(document, &s); err != nil {
		return Settings{}, errors.New("the settings are no JSON of the right form")
	}
	if s.Version != SettingsVersion {
		return Settings{}, fmt.Errorf("the settings have the version %d; this program reads %d", s.Version, SettingsVersion)
	}
	return s, nil
}
