package ociapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/face"
)

// refuse makes an answer in the form of the specification ("Error Codes"): a status, a code, and a sentence for a person.
// helm prints the code and the sentence for whatever answers POST and PUT.
func refuse(status int, code, message string) error {
	return &face.Error{Status: status, Code: code, Message: message}
}

// WriteError answers in the form of the specification. Servers that answer before the request reaches the Handler, or
// after it failed, use it too.
func WriteError(w http.ResponseWriter, status int, code, message string) {
	type info struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]info{"errors": {{code, message}}})
	if err != nil {
		panic(err) // Strings always encode.
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	writeBody(w, status, "application/json", body)
}

func writeBody(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// When the client is gone, nobody is left to tell.
	_, _ = w.Write(body)
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error, seen *audit.Observation) {
	answer := h.door.Fail(w, r, err, seen)
	WriteError(w, answer.Status, answer.Code, answer.Message)
}
