package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// failure is an error as a client sees it.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"` // a sentence
}

func (e *failure) Error() string { return e.Message }

// statuses has the HTTP status of each code.
var statuses = map[string]int{
	"bad_json":               http.StatusBadRequest,
	"bad_destination":        http.StatusBadRequest,
	"unauthorized":           http.StatusUnauthorized,
	"not_found":              http.StatusNotFound,
	"method_not_allowed":     http.StatusMethodNotAllowed,
	"exists":                 http.StatusConflict,
	"limit":                  http.StatusConflict,
	"conflict":               http.StatusConflict,
	"too_large":              http.StatusRequestEntityTooLarge,
	"unsupported_media_type": http.StatusUnsupportedMediaType,
	"too_many":               http.StatusTooManyRequests,
	"resolver_failed":        http.StatusBadGateway,
	"destination_failed":     http.StatusBadGateway,
	"table_failed":           http.StatusInternalServerError,
}

// write answers with the failure.
func (e *failure) write(w http.ResponseWriter) { write(w, statuses[e.Code], e) }

// write answers with a body as JSON, or without a body if the status is 204.
func write(w http.ResponseWriter, status int, body any) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	header.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// notAllowed returns the failure for a method that a path does not have.
func notAllowed(w http.ResponseWriter, allow []string) error {
	methods := strings.Join(allow, ", ")
	w.Header().Set("Allow", methods)
	return &failure{"method_not_allowed", "This path takes " + methods + "."}
}

func notFound(message string) error { return &failure{"not_found", message} }

// failed returns the failure for an error of the library. code is for errors that have no
// code of their own.
func failed(err error, code string) error {
	switch {
	case errors.Is(err, forward.ErrDuplicate):
		return &failure{"exists", "The stream is pushed to this destination already."}
	case errors.Is(err, forward.ErrLimit):
		code = "limit"
	case errors.Is(err, forward.ErrStreamEnded), errors.Is(err, forward.ErrUpdating):
		code = "conflict"
	}
	return &failure{code, sentence(err)}
}

// sentence converts an error to a sentence.
func sentence(err error) string {
	s := hostcode.Text(err)
	first, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[n:] + "."
}

// badJSON describes an error of the decoder without quoting the body.
func badJSON(err error) error {
	var tooLarge *http.MaxBytesError
	var syntax *json.SyntaxError
	message := "The body is not the JSON object of a destination."
	switch {
	case errors.As(err, &tooLarge):
		return &failure{"too_large", fmt.Sprintf("The body is longer than %d bytes.", maxBody)}
	case errors.As(err, &syntax):
		message = fmt.Sprintf("The body is not JSON at byte %d.", syntax.Offset)
	}
	return &failure{"bad_json", message}
}
