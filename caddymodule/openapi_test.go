package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// apiDocument is the OpenAPI document of the send route, with a compiler for its
// schemas.
type apiDocument struct {
	t        *testing.T
	root     map[string]any
	compiler *jsonschema.Compiler
	seen     map[string]bool // "POST /emails 200 application/json"
	taken    map[string]bool // "POST /emails application/json", of requests that went well
}

const documentURL = "https://mail.example/openapi.json"

// readDocument reads the document. All its objects are closed, so that a member of an
// answer that it does not tell of is found.
func readDocument(t *testing.T) *apiDocument {
	t.Helper()
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		t.Fatal(err)
	}
	d := &apiDocument{t: t, root: root.(map[string]any), compiler: jsonschema.NewCompiler(), seen: make(map[string]bool), taken: make(map[string]bool)}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(documentURL, closed(root)); err != nil {
		t.Fatal(err)
	}
	return d
}

// closed forbids members of objects that are not named, unless others are allowed by
// word.
func closed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v)+1)
		for k, m := range v {
			out[k] = closed(m)
		}
		if _, named := v["properties"].(map[string]any); named && v["type"] == "object" {
			if _, said := v["additionalProperties"]; !said {
				out["additionalProperties"] = false
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, m := range v {
			out[i] = closed(m)
		}
		return out
	}
	return v
}

// at follows references to what a pointer means.
func (d *apiDocument) at(path ...string) (value any, pointer string) {
	pointer = "#"
	value = d.root
	for _, name := range path {
		if m, ok := value.(map[string]any); ok {
			if to, ok := m["$ref"].(string); ok {
				value, pointer = d.at(strings.Split(strings.TrimPrefix(to, "#/"), "/")...)
			}
		}
		m, ok := value.(map[string]any)
		if !ok {
			return nil, ""
		}
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if value, ok = m[name]; !ok {
			return nil, ""
		}
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	}
	return value, pointer
}

// check holds a text to the schema at a path in the document.
func (d *apiDocument) check(text string, path ...string) error {
	schema, pointer := d.at(path...)
	if schema == nil {
		return fmt.Errorf("the document has no %s", strings.Join(path, " "))
	}
	pointer = strings.NewReplacer("{", "%7B", "}", "%7D").Replace(pointer)
	compiled, err := d.compiler.Compile(documentURL + pointer)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return compiled.Validate(value)
}

// operations calls f with each method, path and operation.
func (d *apiDocument) operations(f func(method, path string, operation map[string]any)) {
	for path, v := range d.root["paths"].(map[string]any) {
		for method, operation := range v.(map[string]any) {
			if method != "parameters" {
				f(strings.ToUpper(method), path, operation.(map[string]any))
			}
		}
	}
}

// TestOpenAPIDocument: the document is one of OpenAPI 3.1, its schemas are schemas, and
// it has the calls that the handler has.
func TestOpenAPIDocument(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	meta, err := os.ReadFile("testdata/openapi-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(meta))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("https://spec.openapis.org/oas/3.1/schema", schema); err != nil {
		t.Fatal(err)
	}
	valid := c.MustCompile("https://spec.openapis.org/oas/3.1/schema")
	if err := valid.Validate(d.root); err != nil {
		t.Errorf("not as the meta-schema has it: %v", err)
	}
	broken := maps.Clone(d.root)
	delete(broken, "info")
	if valid.Validate(broken) == nil {
		t.Error("the meta-schema takes anything")
	}
	for name := range d.root["components"].(map[string]any)["schemas"].(map[string]any) {
		if _, err := d.compiler.Compile(documentURL + "#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	var has, want []string
	ids := make(map[string]bool)
	d.operations(func(method, path string, operation map[string]any) {
		has = append(has, method+" "+path)
		id, _ := operation["operationId"].(string)
		if id == "" || ids[id] {
			t.Errorf("%s %s: operationId %q", method, path, id)
		}
		ids[id] = true
	})
	for _, r := range sendRoutes {
		want = append(want, r.method+" "+r.pattern)
	}
	want = append(want, "GET "+openAPIPath)
	slices.Sort(has)
	slices.Sort(want)
	if !slices.Equal(has, want) {
		t.Errorf("the document has %q, the handler %q", has, want)
	}
}

// answered holds an answer to the document.
func (d *apiDocument) answered(method, path string, got answer) {
	d.t.Helper()
	media, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
	what := fmt.Sprintf("%s %s %d %s", method, path, got.status, media)
	d.seen[what] = true
	response := []string{"paths", path, strings.ToLower(method), "responses", strconv.Itoa(got.status)}
	if v, _ := d.at(response...); v == nil {
		d.t.Errorf("%s: not in the document: %.300s", what, got.body)
		return
	}
	texts := []string{got.body}
	if media == "application/x-ndjson" {
		texts = strings.Split(strings.TrimSpace(got.body), "\n")
	}
	for _, text := range texts {
		if err := d.check(text, append(response, "content", media, "schema")...); err != nil {
			d.t.Errorf("%s: %v: %.600s", what, err, text)
		}
	}
	for name := range got.header {
		if strings.HasPrefix(name, "Ratelimit-") || name == "Retry-After" || name == "Allow" || name == "Preference-Applied" || name == "Idempotent-Replayed" || name == "Location" || name == "X-Request-Id" {
			if !d.hasHeader(name, response) {
				d.t.Errorf("%s: the header %s is not in the document", what, name)
			}
		}
	}
}

func (d *apiDocument) hasHeader(name string, response []string) bool {
	v, _ := d.at(append(response, "headers")...)
	headers, _ := v.(map[string]any)
	for h := range headers {
		if strings.EqualFold(h, name) {
			return true
		}
	}
	return false
}

// unreachable are the statuses that no request brings about at will: faults of this
// server, of its store, and of its network. Their body is checked by TestOpenAPIErrors.
var unreachable = []int{500, 503, 504, 507}

// missed reports the answers in the document that were not seen, and the bodies that were
// not sent.
func (d *apiDocument) missed() {
	d.operations(func(method, path string, operation map[string]any) {
		bodies, _ := d.at("paths", path, strings.ToLower(method), "requestBody", "content")
		of, _ := bodies.(map[string]any)
		for media := range of {
			if !d.taken[method+" "+path+" "+media] {
				d.t.Errorf("no request of the type %s went well at %s %s", media, method, path)
			}
		}
		for status := range operation["responses"].(map[string]any) {
			n, _ := strconv.Atoi(status)
			v, _ := d.at("paths", path, strings.ToLower(method), "responses", status, "content")
			for media := range v.(map[string]any) {
				what := fmt.Sprintf("%s %s %s %s", method, path, status, media)
				if !d.seen[what] && !slices.Contains(unreachable, n) {
					d.t.Errorf("no request had the answer %s", what)
				}
			}
		}
	})
}

// TestOpenAPI walks through every call, status and media type of the document, with
// requests to a real Caddy whose answers must be as the document says.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {
		"250 ok", "550 5.1.1 no such user", "250 ok", // the first message
		"550 5.1.8 Access denied, bad outbound sender", "550 5.1.8 Access denied, bad outbound sender", "250 ok",
	}}}
	p := startCaddy(t, scripted(t, script)+`
		key many test-key-of-many-24-characters {
			tenants default
		}
		key sender test-key-of-sender-24-characters default {
			scopes send
		}
		key reader test-key-of-reader-24-characters default {
			scopes read
		}
		key ended test-key-of-ended-24-characters default {
			expires 2020-01-01
		}
		key slow test-key-of-slow-24-characters default {
			rate 1 24h
		}
`)
	call := func(method, path, target, key, body string, more ...string) answer {
		t.Helper()
		h := map[string]string{"Content-Type": "application/json"}
		if key != "" {
			h["Authorization"] = "Bearer " + key
		}
		for i := 0; i+1 < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		var got answer
		got = p.do(method, target, h, body)
		d.answered(method, path, got)
		if media, _, _ := strings.Cut(h["Content-Type"], ";"); got.status < 300 {
			d.taken[method+" "+path+" "+media] = true
		}
		if got.status >= 400 { // and once more in the other shape, which must not do anything else
			h["Accept"] = "application/problem+json"
			again := p.do(method, target, h, body)
			if again.status != got.status {
				t.Errorf("%s %s: status %d, then %d: %s", method, target, got.status, again.status, again.body)
			}
			d.answered(method, path, again)
		}
		return got
	}
	const (
		full = `{"from":"Sender <sender@example.com>","to":["a@example.net"],"cc":"b@example.net","bcc":["c@example.net"],"reply_to":"d@example.net","subject":"s",
			"text":"t","html":"<p>t</p>","headers":{"X-A":"b","X-N":1},"attachments":[{"filename":"a.txt","content":"QUJD","content_type":"text/plain"},
			{"filename":"b.png","content":{"type":"Buffer","data":[1,2]},"inline_content_id":"b","content_disposition":"inline"},{"filename":"c","content":[1,2,3],"content_id":"c"}],
			"tags":[{"name":"kind","value":"test"}],"topic_id":"x","oauth_mail":{"metadata":{"order":"1"},"sender":"sender@example.com","in_reply_to":"<a@example.net>",
			"references":["<a@example.net>"],"priority":"low","envelope":{"to":["a@example.net","b@example.net","c@example.net"]},"ical":{"method":"REQUEST","content":"BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR"}}}`
		emails, batch, one, cancel, files = "/emails", "/emails/batch", "/emails/{id}", "/emails/{id}/cancel", "/emails/{id}/attachments"
	)
	for _, body := range []string{full, mailBody, strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)} {
		if err := d.check(body, "components", "schemas", "SendEmail"); err != nil {
			t.Errorf("the document does not allow %s: %v", body, err)
		}
	}
	got := accepted(t, call("POST", emails, emails, testKey, full), 200, "sent") // the second recipient is refused
	if len(got.Rejected) != 1 || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "topic_id") {
		t.Errorf("answer %+v", got)
	}
	if g := call("POST", emails, emails, testKey, mailBody); g.status != 451 {
		t.Errorf("a blocked sender: status %d: %s", g.status, g.body)
	}
	call("POST", emails, emails, testKey, mailBody, "Idempotency-Key", "1")
	call("POST", emails, emails, testKey, mailBody, "Idempotency-Key", "1")
	later := accepted(t, call("POST", emails, emails, testKey, strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)), 200, "scheduled")
	async := call("POST", emails, "//emails", testKey, mailBody, "Prefer", "respond-async")
	if v := accepted(t, async, 202, "queued"); async.header.Get("Location") != emails+"/"+v.ID {
		t.Errorf("location %q of %s", async.header.Get("Location"), v.ID)
	}
	call("POST", emails, emails, "test-key-of-many-24-characters", mailBody, "X-Mail-Tenant", "default")
	call("POST", emails, emails, "test-key-of-slow-24-characters", mailBody)
	call("POST", batch, batch, testKey, "["+mailBody+"]")
	call("POST", batch, batch, testKey, "["+mailBody+"]", "Prefer", "respond-async")
	call("POST", batch, batch, testKey, "["+mailBody+`,{"to":1}]`, "X-Batch-Validation", "permissive")
	for _, media := range lineTypes {
		call("POST", batch, batch, testKey, mailBody+"\n{}\n", "Content-Type", media)
	}
	form, media := newForm(t, formPart{name: "to", text: "a@example.net"}, formPart{name: "subject", text: "s"}, formPart{name: "f", file: "a.txt", text: "x"})
	whole := "To: a@example.net\r\nSubject: s\r\n\r\nbody\r\n"
	for body, media := range map[string]string{form: media, whole: "message/rfc822", strings.Replace(mailBody, "{", `{"oauth_mail":{"dry_run":true},`, 1): typeJSON, mailBody: typeJSON} {
		for _, dry := range []string{"", "1"} {
			call("POST", emails, emails, testKey, body, "Content-Type", media, "X-Mail-Dry-Run", dry)
		}
	}
	call("GET", emails, emails+"?limit=3", testKey, "")
	call("GET", one, emails+"/"+got.ID, testKey, "")
	call("GET", one, emails+"/"+later.ID, testKey, "")
	call("GET", files, emails+"/"+got.ID+"/attachments", testKey, "")
	call("PATCH", one, emails+"/"+later.ID, testKey, `{"scheduled_at":"in 3 hours"}`)
	call("POST", cancel, emails+"/"+later.ID+"/cancel", testKey, "")
	call("GET", openAPIPath, openAPIPath, "", "")

	// What every call refuses. The methods that a path has not are counted with those
	// that it has.
	paths := map[string]string{emails: emails, batch: batch, one: emails + "/" + got.ID, cancel: emails + "/" + got.ID + "/cancel", files: emails + "/" + got.ID + "/attachments"}
	wrongly := map[string]string{"POST /emails": "PUT", "POST /emails/batch": "PUT", "GET /emails/{id}": "PUT", "POST /emails/{id}/cancel": "PUT", "GET /emails/{id}/attachments": "PUT", "GET /openapi.json": "PUT"}
	for _, r := range sendRoutes {
		target := paths[r.pattern]
		call(r.method, r.pattern, target, "", "")
		call(r.method, r.pattern, target, "test-key-of-ended-24-characters", "")
		key := "test-key-of-sender-24-characters"
		if sendScope(r.method, r.pattern) {
			key = "test-key-of-reader-24-characters"
		}
		if g := call(r.method, r.pattern, target, key, ""); g.status != 401 {
			t.Errorf("%s %s without the scope: %d", r.method, r.pattern, g.status)
		}
	}
	for what, method := range wrongly {
		intended, path, _ := strings.Cut(what, " ")
		target := paths[path]
		if target == "" {
			target = path
		}
		for _, accept := range []string{"*/*", "application/problem+json"} {
			d.answered(intended, path, p.do(method, target, map[string]string{"Authorization": "Bearer " + testKey, "Accept": accept}, ""))
		}
	}
	for _, path := range []string{emails, batch} {
		body := func(message string) string {
			if path == batch {
				return "[" + message + "]"
			}
			return message
		}
		call("POST", path, path, testKey, "{")
		call("POST", path, path, testKey, body(mailBody), "Idempotency-Key", strings.Repeat("x", 257))
		call("POST", path, path, testKey, body(strings.Replace(mailBody, "sender@example.com", "x@bank.example", 1)))
		call("POST", path, path, testKey, body(mailBody), "Idempotency-Key", "2")
		call("POST", path, path, testKey, body(strings.Replace(mailBody, `"s"`, `"other"`, 1)), "Idempotency-Key", "2")
		call("POST", path, path, testKey, body(strings.Replace(mailBody, `"t"`, `"`+strings.Repeat("x", 37<<20)+`"`, 1)))
		call("POST", path, path, testKey, "x=y", "Content-Type", "application/x-www-form-urlencoded")
		call("POST", path, path, testKey, body(`{"subject":"s"}`))
		call("POST", path, path, "test-key-of-slow-24-characters", body(mailBody))
	}
	unknown := emails + "/0190a2b4-0000-7000-8000-000000000000"
	for _, r := range sendRoutes {
		if strings.HasPrefix(r.pattern, one) {
			call(r.method, r.pattern, strings.Replace(r.pattern, one, unknown, 1), testKey, `{"scheduled_at":"in 3 hours"}`)
		}
	}
	call("GET", emails, emails+"?limit=0", testKey, "")
	call("POST", cancel, paths[cancel], testKey, "")
	call("PATCH", one, paths[one], testKey, `{"scheduled_at":"in 3 hours"}`)
	call("PATCH", one, paths[one], testKey, `[]`)
	call("PATCH", one, paths[one], testKey, `{"scheduled_at":"`+strings.Repeat("x", 65<<10)+`"}`)
	call("PATCH", one, paths[one], testKey, `{}`, "Content-Type", "text/plain")

	off := startCaddy(t, withoutOutbox+tenantAt("127.0.0.1:1"))
	for _, accept := range []string{"*/*", "application/problem+json"} {
		h := map[string]string{"Authorization": "Bearer " + testKey, "Accept": accept, "Content-Type": "application/json"}
		d.answered("GET", emails, off.do("GET", emails, h, ""))
		if g := off.do("POST", emails, h, mailBody); g.status != 503 {
			t.Errorf("without a server: %d %s", g.status, g.body)
		} else {
			d.answered("POST", emails, g)
		}
	}
	// From ten wrong keys on each of them waits, and a seldom one is let through.
	var group sync.WaitGroup
	slowed := make([]answer, 2*len(sendRoutes))
	for i := range slowed {
		r := sendRoutes[i/2]
		h := map[string]string{"Authorization": "Bearer wrong", "Accept": []string{"*/*", "application/problem+json"}[i%2]}
		group.Go(func() {
			for range 2 * wrongKeys {
				if slowed[i] = p.do(r.method, paths[r.pattern], h, ""); slowed[i].status == 429 {
					return
				}
			}
		})
	}
	group.Wait()
	for i, got := range slowed {
		d.answered(sendRoutes[i/2].method, sendRoutes[i/2].pattern, got)
	}
	d.missed()
}

// sendScope reports whether a call sends.
func sendScope(method, pattern string) bool {
	call, _, _ := sendRoutes.find(method, pattern)
	return call.scope == scopeSend
}

// TestOpenAPIErrors: the errors that no request brings about at will have the shape of
// the document, too.
func TestOpenAPIErrors(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	for _, status := range unreachable {
		p := refuse(status, nameApplication, "code", "message")
		if status == 500 {
			p = toProblem(errors.New("broken"))
		}
		p.id, p.messageID, p.smtp = "0190a2b4-0000-7000-8000-000000000000", "<x@example.com>", &smtpReply{Code: 421, Text: "x", Stage: "final"}
		for accept, schema := range map[string]string{"*/*": "Error", "application/problem+json": "Problem"} {
			r := httptest.NewRequest("POST", "/emails", nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			writeProblem(w, r, p)
			if err := d.check(w.Body.String(), "components", "schemas", schema); err != nil {
				t.Errorf("%d %s: %v: %s", status, accept, err, w.Body)
			}
		}
	}
	var names []any
	v, _ := d.at("components", "schemas", "Error", "properties", "name", "enum")
	names = v.([]any)
	for _, name := range []string{
		nameValidation, nameMissingField, nameInvalidFrom, nameInvalidAttachment, nameInvalidIdempotencyKey, nameConcurrentRequests, nameInvalidRequest,
		nameMissingKey, nameInvalidKey, nameRestrictedKey, nameNotFound, nameMethodNotAllowed, nameRateLimit, nameDailyQuota, nameSecurity, nameApplication, nameInternal,
	} {
		if !slices.Contains(names, any(name)) {
			t.Errorf("the document has no name %q", name)
		}
	}
	events, _ := d.at("components", "schemas", "EmailItem", "properties", "last_event", "enum")
	if list, _ := json.Marshal(events); string(list) != `["queued","scheduled","sent","delivery_delayed","failed","bounced","canceled"]` {
		t.Errorf("last events %s", list)
	}
}
