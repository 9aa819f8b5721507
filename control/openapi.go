package control

import (
	_ "embed"
	"encoding/json"
	"net/http"
)

// openAPI is the description of the handler.
//
//go:embed openapi.json
var openAPI []byte

func (h *handler) describe(*http.Request) (int, any, error) {
	return http.StatusOK, json.RawMessage(openAPI), nil
}
