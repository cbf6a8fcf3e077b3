resource "terraform_data" "app" {
  input = "checked"
  lifecycle {
    postcondition {
      condition     = self.input == "other"
      error_message = "never"
    }
  }
}

resource "terraform_data" "other" {}
