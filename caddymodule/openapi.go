package caddymodule

import (
	_ "embed"
	"net/http"
)

// openAPI describes the send route (OpenAPI 3.1). A test holds it and the handler
// together.
//
//go:embed openapi.json
var openAPI []byte

// openAPIPath is where it is, for everybody: it says nothing of this server.
const openAPIPath = "/openapi.json"

func serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		writeProblem(w, r, refuse(http.StatusMethodNotAllowed, nameMethodNotAllowed, "", "This call wants GET."))
		return
	}
	writeBody(w, "application/json", http.StatusOK, openAPI)
}
